#pragma once

#include <cstdint>
#include <limits>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/optim/covariance_estimator.hpp>

namespace curvature::optim {

/// How `spectral_factorized_estimator` estimates.
struct SpectralFactorizedOptions {
  double beta2 = 0.95;          ///< 1 - beta2 is the rate of all updates
  double root = 2;              ///< directions are S^(-1/root) m
  double epsilon = 1e-8;        ///< added to the root
  double gap_tolerance = 1e-6;  ///< eigenvectors of closer eigenvalues are not turned to each other
  double max_rotation = 0.5;    ///< bound of |N|_F
  /// Bound of the logarithm by which an eigenvalue changes in one update, against spikes; the whole
  /// vector is scaled, which keeps its product.
  double max_log_change = std::numeric_limits<double>::infinity();
  int64_t refresh_interval = 1;  ///< S moves in every so many-th step
  /// After so many updates a Newton-Schulz step takes rounding errors off the bases; 0: never. In
  /// bfloat16 it follows every update.
  int64_t orthogonalize_interval = 100;
};

/// S = a (x)_i Q_i diag(e_i) Q_i^T with orthogonal Q_i and product of each e_i equal to 1, kept in
/// this form and moved by Riemannian gradient descent on the divergence of Gaussians: any root is
/// free, nothing is ever decomposed, the state may be bfloat16. Lin et al., "Spectral-factorized
/// positive-definite curvature learning for NN training", arXiv 2502.06268. To first order it is
/// the exact KL-Shampoo, whose fixed point it shares.
///
/// With P = G rotated into the bases, r = 1 - beta2, and T_i the Gram matrix along axis i of
/// P / sqrt(a D_i (x)_{j != i} e_j), the update is
///
///     q_i = diag(T_i) / e_i;    a <- a exp(r (mean(q_1) - 1));
///     e_i <- e_i exp(r (q_i - mean(q_i)));    Q_i <- Q_i (I + N_i) (I - N_i)^-1
///
/// with N_i[a, b] = -r/2 T_i[a, b] / (e_i[a] - e_i[b]), antisymmetric. The first gradient sets the
/// scale, a = mean(G^2). It enters before the direction is taken.
///
/// Cost for each axis: three products with G, and at a refresh one Gram matrix and the solution of
/// one system of size d_i (in bfloat16 six products). Memory: d_i^2 + d_i.
/// @throws OptionError
EstimatorFactory spectral_factorized_estimator(const SpectralFactorizedOptions& options = {});

/// The same for one symmetric positive definite matrix S = Q diag(l) Q^T alone: moving averages,
/// covariance adaptation, problems on SPD matrices. Follows S <- S + rate (H - forgetting S) to
/// first order in the rate and stays positive definite for every symmetric H.
struct SpectralMatrix {
  at::Tensor basis;        ///< Q `[n, n]`
  at::Tensor eigenvalues;  ///< l `[n]`, positive, in no particular order

  /// scale I. Costs n^2.
  static SpectralMatrix identity(int64_t n, double scale, const at::TensorOptions& options);
  /// Of a given S, by the only decomposition. @throws NumericalError if S is not positive definite
  static SpectralMatrix of(const at::Tensor& s);

  OperatorPtr as_operator() const;  ///< S, frozen
  /// S^exponent x for x `[n]` or `[n, K]`.
  at::Tensor power(double exponent, const at::Tensor& x) const;
};

/// How a sample moves a `SpectralMatrix`.
struct SpectralUpdateOptions {
  double rate = 0.05;           ///< step size
  double forgetting = 1;        ///< weight of the old S: 1 for a moving average, 0 for a sum
  double gap_tolerance = 1e-6;  ///< as of the estimator
  double max_rotation = 0.5;    ///< as of the estimator
  double max_log_change = 1;    ///< of an eigenvalue, entry by entry: none becomes 0
};

/// Moves S by a symmetric sample H `[n, n]`, definite or not. Costs O(n^3).
/// @throws ShapeError, OptionError; NumericalError if H is not finite, with nothing changed
void update(SpectralMatrix& s, const at::Tensor& h, const SpectralUpdateOptions& options = {});

}  // namespace curvature::optim
