#pragma once

#include <cstdint>

#include <curvature/optim/covariance_estimator.hpp>

namespace curvature::optim {

/// How a factor Q moves; A is the Gram matrix of the preconditioned gradient along its axis, c its
/// target, h the step size. With products of a Hessian (`psgd_newton`) the Gram matrix of the
/// vector v takes the place of c I.
enum class PsgdGeometry {
  kQHalfEq,  ///< Q <- Q - h (A - c I) Q, then a rotation towards symmetry ("Q0.5EQ1.5")
  kQuad,     ///< Q <- (I - h/2 (A - c I)) Q (I - h/2 (A - c I)), symmetric
  kQeq,      ///< Q <- Q - h Q (A - c I)
  /// Q <- Q - h triu(A - B) Q, Q upper triangular; here A is the Gram matrix of (x) Q_i g, and B
  /// that of (x) Q_i^-T v, or its mean over white v ("EQ"). One triangular system, no rotation.
  kEq,
};

/// How `psgd_kron_estimator` estimates.
struct PsgdKronOptions {
  double preconditioner_rate = 0.1;  ///< h times the Lipschitz constant
  double lipschitz_decay = 0.9;      ///< of the constant's running bound
  /// Axes with d^2 above this times D have a diagonal. The program's 1 leaves a layer with more
  /// inputs than outputs without a matrix for its inputs; where those are correlated, more may
  /// be better.
  double max_skew = 1;
  PsgdGeometry geometry = PsgdGeometry::kQHalfEq;  ///< see there
  int64_t refresh_interval = 1;                    ///< the factors move in every so many-th step
  /// Of this standard deviation, plus rounding of G, is noise added to what the factors see; 0 adds
  /// none. Keeps P bounded where gradients vanish.
  double noise = 0;
  uint64_t seed = 0;  ///< of the noise
  /// After so many refreshes the factors are scaled to equal largest entries, which leaves P as it
  /// is but for rounding; 0: never.
  int64_t balance_interval = 0;
};

/// P = S^-1/2 = (x)_i Q_i^T Q_i directly, by gradient descent on tr(P S) + tr(P^-1) along a group
/// of matrices: nothing is inverted or decomposed. PSGD with Kronecker factors, whitening type, the
/// noise of its criterion integrated out: Li, "Preconditioned stochastic gradient descent", IEEE
/// TNNLS 29(5), 2018; "Stochastic Hessian fittings with Lie groups", arXiv 2402.11858; the
/// program psgd_torch.
///
/// With R = P G, A_i = R_(i) R_(i)^T and c_i = D / d_i the step of Q_i has length
/// preconditioner_rate / L_i, L_i a running bound of |A_i|_2 + c_i. The first gradient also sets
/// the scale, Q_i = mean(G^4)^(-1/8k) I. Directions are P m. The program's own update rule is
/// `Averaging::kRunningMean` and `ClipOptions{.rms = 2, .entry = 10}`.
///
/// Cost for each axis: two products with P_i, two to four of matrices d_i x d_i and two Gram
/// matrices at a refresh; one product with P_i otherwise. Memory: 2 d_i^2.
/// @throws OptionError
EstimatorFactory psgd_kron_estimator(const PsgdKronOptions& options = {});

}  // namespace curvature::optim
