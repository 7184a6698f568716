#pragma once

#include <cstdint>

#include <curvature/optim/covariance_estimator.hpp>

namespace curvature::optim {

/// How `psgd_lra_estimator` estimates.
struct PsgdLraOptions {
  int64_t rank = 10;                 ///< r, at most the parameter's size; 0: a diagonal
  double preconditioner_rate = 0.1;  ///< step size of U, V and d, times their Lipschitz constants
  double lipschitz_decay = 0.9;      ///< of the constants' running bounds
  int64_t refresh_interval = 1;      ///< they move in every so many-th step
  double noise = 0;                  ///< see `PsgdKronOptions::noise`
  uint64_t seed = 0;                 ///< of U and V at the start, the coin and the noise
};

/// P = S^-1/2 = Q^T Q with Q = (I + U V^T) diag(d) for the whole parameter as one vector, U and V
/// `[D, r]`, d `[D]`: PSGD with a low-rank approximation, whitening type. Li, arXiv 2402.11858; the
/// program psgd_torch.
///
/// With a = Q g and N = (Q Q^T)^-1, the mean of b b^T for b = Q^-T v and white v, a step is
///
///     d <- d - h_d (P g o g - diag P^-1) o d
///     U <- U - h_U (a a^T - N) V (I + V^T U)             or, by a coin,
///     V <- V - h_V (I + V U^T) (a a^T - N) U
///
/// all from the old values. The program draws v; here it is integrated out, as N V, N U and the
/// diagonal of P^-1 cost O(D r^2). Step sizes are the rate over running bounds of
/// max|P g o g| + max diag P^-1 and |a| |X X^T a| + |N X X^T|_F, X = V or U. Before a step U and V
/// are balanced, which leaves U V^T as it is. At the start U and V are random with norm 0.1^1/2,
/// and the first gradient sets the scale, d = mean(G^4)^-1/8.
///
/// Cost: O(D r^2) at a refresh, O(D r) otherwise. Memory: (2 r + 1) D.
/// @random{U and V at the start, the coin, the noise}
/// @throws OptionError
EstimatorFactory psgd_lra_estimator(const PsgdLraOptions& options = {});

}  // namespace curvature::optim
