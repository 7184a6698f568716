#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/random.hpp>
#include <curvature/model/empirical_risk.hpp>
#include <curvature/optim/damping_control.hpp>
#include <curvature/optim/minimizer.hpp>

/// \file
/// Newton's method in five forms: products with the batch's curvature, conjugate gradients or
/// Lanczos, and a rule for how far the quadratic model is trusted. The loss after a step is
/// evaluated on the same batch; one that is not good enough is tried again, more cautiously, from
/// the same products. `learning_rate` multiplies the model's step; 1 is Newton's.

namespace curvature::optim {

/// Makes the matrix of the quadratic model of a batch, weight decay included (`ggn` and `hessian`
/// include it).
using CurvatureFunction = std::function<OperatorPtr(const EmpiricalRisk& batch)>;

/// How `hessian_free` steps.
struct HessianFreeOptions {
  double learning_rate = 1;          ///< part of the model's step that is taken
  double damping = 1;                ///< at the start
  double damping_factor = 1.5;       ///< by which it grows and shrinks
  double min_damping = 1e-9;         ///< it does not fall below
  double max_damping = 1e9;          ///< it does not rise above
  int64_t max_cg_iterations = 250;   ///< of a step
  double cg_progress = 5e-4;         ///< Martens's eps; see `TruncatedCgOptions::progress`
  double relative_residual = 1e-10;  ///< where conjugate gradients end in any case
  double start_decay = 0.95;  ///< conjugate gradients start from this part of the last solution
  /// Preconditioner: (diagonal of the gradients' second moment + weight decay + damping)^-this; 0
  /// for none.
  double preconditioner_exponent = 0.75;
  CurvatureFunction curvature = {};  ///< positive semidefinite; empty for `ggn`
};

/// Hessian-free optimization: (G + damping I) d = -g by preconditioned conjugate gradients, ended
/// by progress, started from the last solution; back along the kept iterates as long as the loss
/// falls, then back along the line (Armijo, c = 0.01); damping by Levenberg and Marquardt. Costs a
/// gradient, one for the preconditioner, a product an iteration, and several losses. Martens, ICML
/// 2010; Martens, Sutskever, "Training deep and recurrent networks with Hessian-free optimization",
/// 2012. @throws OptionError
std::unique_ptr<Minimizer> hessian_free(const EmpiricalRisk& risk,
                                        const HessianFreeOptions& options = {});

/// How the damped systems of a step are solved.
enum class SystemSolver {
  kConjugateGradients,  ///< by products
  /// See `direct`: in closed form where the damped curvature has one, as that of `ggn_low_rank` in
  /// the space of the data, else by a dense matrix.
  kDirect,
};

/// How `levenberg_marquardt` steps.
struct LevenbergMarquardtOptions {
  double learning_rate = 1;    ///< part of the model's step that is taken
  double damping = 1e-3;       ///< at the start
  double min_damping = 1e-12;  ///< it does not fall below
  double max_damping = 1e9;    ///< it does not rise above
  /// Damps with this times the diagonal of the GGN (Marquardt) instead of the identity
  /// (Levenberg): one backward pass per example and output more. Diagonal entries count at least a
  /// millionth of the largest.
  bool scale_by_diagonal = false;
  SystemSolver solver = SystemSolver::kConjugateGradients;  ///< see there
  int64_t max_cg_iterations = 250;                          ///< of an attempt
  double relative_residual = 1e-6;                          ///< of conjugate gradients
  int64_t max_attempts = 10;                                ///< in a step, each with more damping
  CurvatureFunction curvature = {};  ///< positive semidefinite; empty for `ggn`
};

/// Levenberg and Marquardt's method with Nielsen's rule for the damping (see
/// `DampingRule::kNielsen`). Costs a gradient, and for each attempt the products of its conjugate
/// gradients (or a direct solution) and a loss. For fewer residuals than parameters: `kDirect` and
/// `ggn_low_rank`. Nielsen, IMM-REP-1999-05. @throws OptionError
std::unique_ptr<Minimizer> levenberg_marquardt(const EmpiricalRisk& risk,
                                               const LevenbergMarquardtOptions& options = {});

/// How `gradient_regularized_newton` steps.
struct GradientRegularizedNewtonOptions {
  double learning_rate = 1;                             ///< part of the model's step that is taken
  DampingRule rule = DampingRule::kGradientNormalized;  ///< one of those with |g|
  double damping = 1;                ///< first value of what the rule adapts: 1 / gamma, or H
  double min_damping = 1e-9;         ///< it does not fall below
  double max_damping = 1e9;          ///< it does not rise above
  double exponent = 2.0 / 3;         ///< of `kSuperUniversal`
  int64_t max_cg_iterations = 250;   ///< of an attempt
  double relative_residual = 1e-8;   ///< of conjugate gradients
  int64_t max_attempts = 20;         ///< in a step
  CurvatureFunction curvature = {};  ///< symmetric, any approximation; empty for `hessian`
};

/// Newton's method with damping in proportion to a power of the gradient's norm: see the three
/// rules of `DampingRule` with |g|. Where the damped curvature is not definite the attempt fails.
/// Costs a gradient, and for each attempt the products of its conjugate gradients and a gradient.
/// @throws OptionError
std::unique_ptr<Minimizer> gradient_regularized_newton(
    const EmpiricalRisk& risk, const GradientRegularizedNewtonOptions& options = {});

/// How `newton_cg` steps.
struct NewtonCgOptions {
  double learning_rate = 1;          ///< part of the model's step that is taken
  double radius = 1;                 ///< of the region that is trusted, at the start
  double max_radius = 100;           ///< it does not grow beyond
  double forcing = 0.5;              ///< conjugate gradients end at min(this, sqrt|g|) |g|
  int64_t max_cg_iterations = 250;   ///< of an attempt
  double acceptance = 1e-4;          ///< least ratio of loss to model change of a step
  int64_t max_attempts = 20;         ///< in a step, each in a smaller region
  CurvatureFunction curvature = {};  ///< symmetric; empty for `hessian`
};

/// Newton's method in a trust region by truncated conjugate gradients: negative curvature is
/// followed to the boundary. At a point with zero gradient it stays. Costs a gradient, and for each
/// attempt the products of its conjugate gradients and a loss. Steihaug, SIAM J. Numer. Anal.
/// 20(3), 1983; Nocedal, Wright, "Numerical Optimization", algorithms 4.1 and 7.2.
/// @throws OptionError
std::unique_ptr<Minimizer> newton_cg(const EmpiricalRisk& risk,
                                     const NewtonCgOptions& options = {});

/// How `cubic_newton` steps.
struct CubicNewtonOptions {
  double learning_rate = 1;       ///< part of the model's step that is taken
  double cubic_coefficient = 1;   ///< M at the start: a Lipschitz constant of the Hessian
  double min_coefficient = 1e-9;  ///< it does not fall below
  double max_coefficient = 1e12;  ///< it does not rise above
  int64_t subspace_size = 30;     ///< Lanczos steps from the gradient
  /// Lanczos steps from a random vector, whose lowest Ritz vector joins the subspace, so that
  /// saddle points are left even where the gradient has no part along the way down; 0: not.
  int64_t probe_steps = 10;
  int64_t max_attempts = 20;         ///< in a step; they cost no products
  CurvatureFunction curvature = {};  ///< symmetric; empty for `hessian`
  RandomSource random{};             ///< of the probes, told apart by the number of the step
};

/// Newton's method with cubic regularisation: minimises g^T h + h^T H h / 2 + M / 6 |h|^3 over a
/// Krylov space, exactly (also in the hard case); M is halved after steps that lower the loss as
/// much as the model says, and doubled after others, which are not taken. Costs a gradient, the
/// Lanczos products and two, and a loss for each attempt. Nesterov, Polyak, Math. Program. 108,
/// 2006; Cartis, Gould, Toint, Math. Program. 127, 2011. @throws OptionError
std::unique_ptr<Minimizer> cubic_newton(const EmpiricalRisk& risk,
                                        const CubicNewtonOptions& options = {});

}  // namespace curvature::optim
