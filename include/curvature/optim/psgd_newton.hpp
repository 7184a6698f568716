#pragma once

#include <cstdint>
#include <memory>
#include <variant>

#include <curvature/core/random.hpp>
#include <curvature/optim/minimizer.hpp>
#include <curvature/optim/newton.hpp>
#include <curvature/optim/preconditioned.hpp>
#include <curvature/optim/psgd_dense_estimator.hpp>
#include <curvature/optim/psgd_kron_estimator.hpp>
#include <curvature/optim/psgd_lra_estimator.hpp>

namespace curvature::optim {

/// The form of PSGD's preconditioner.
using PsgdForm = std::variant<PsgdKronOptions, PsgdDenseOptions, PsgdLraOptions>;

/// How `psgd_newton` steps.
struct PsgdNewtonOptions {
  double learning_rate = 0.01;        ///< what directions are multiplied by; 1 is Newton's step
  double momentum = 0.9;              ///< largest weight of earlier gradients, a running mean
  double max_norm = 0;                ///< bound on the norm of a direction; 0: none
  PsgdForm form = PsgdKronOptions{};  ///< Kronecker factors, a matrix, or a low-rank one
  /// The last two see all parameters as one vector; false: each parameter has its own. Kronecker
  /// factors always are of one parameter.
  bool joint = true;
  ShapePolicy shape = ShapePolicy::kMatrix;  ///< which tensor a parameter becomes, for factors
  CurvatureFunction curvature = {};          ///< symmetric; empty for `hessian`
  RandomSource random{};                     ///< of the vectors v, and of noise
};

/// PSGD of Newton's type: each refresh draws a white vector v, computes h = H v with the batch's
/// curvature, and moves P along the gradient of h^T P h + v^T P^-1 v, whose mean is least at
/// P = (E h h^T)^-1/2; for one vector of all parameters and a constant H that is |H|^-1, also of an
/// indefinite H. Directions are P m. Li, IEEE TNNLS 29(5), 2018; arXiv 2402.11858; the program
/// psgd_torch.
///
/// A form that sees a part of the parameters has (E h h^T)^-1/2 = ((H^2)_bb)^-1/2 for its part, not
/// |H_bb|^-1: v is drawn for all, so that what couples the parts shortens their steps. The `seed`
/// of the form's options is that of U, V and their coin alone. A part whose products have all been
/// zero stays, and so does a parameter whose gradients have.
///
/// @cost{two gradients, at a refresh one product more; and the form's own arithmetic}
/// @random{v, noise; U and V at the start, their coin}
/// @throws OptionError
std::unique_ptr<Minimizer> psgd_newton(const EmpiricalRisk& risk,
                                       const PsgdNewtonOptions& options = {});

}  // namespace curvature::optim
