#pragma once

#include <cstdint>

#include <curvature/optim/covariance_estimator.hpp>
#include <curvature/optim/factor_structure.hpp>

namespace curvature::optim {

/// How `sirf_estimator` estimates.
struct SirfOptions {
  int64_t batch_size = 1;             ///< of the mean loss whose gradients are given
  double preconditioner_rate = 0.01;  ///< step size of K (beta2 of the paper)
  double alpha2 = 0.5;                ///< decay of the average of K's directions
  double damping = 1e-3;              ///< added to the curvature
  int64_t refresh_interval = 1;       ///< K moves in every so many-th step
  StructureOptions structure{};       ///< of the factors of dense axes
  uint64_t seed = 0;                  ///< of rounding to bfloat16
};

/// S^-1 = (x)_i K_i K_i^T directly, by multiplicative updates: no root, no inverse, no
/// decomposition, so that bfloat16 suffices for the state. SIRF-Shampoo, the structured inverse-
/// and root-free form of Shampoo: Lin et al., "Can we remove the square root in adaptive gradient
/// methods? A second-order perspective", ICML 2024, section 4; the program sirfshampoo.
///
///     X = G x_i K_i^T
///     H_i = 1/2 Pi[ batch_size / D_i X_(i) X_(i)^T
///                   + damping prod_{j != i} tr(K_j^T K_j) / d_j K_i^T K_i - I ]
///     N_i <- alpha2 N_i + (1 - alpha2) H_i
///     K_i <- K_i (I - preconditioner_rate / max(1, |N_i|_F) N_i)
///
/// It estimates batch_size E[g g^T] + damping, a Fisher-like second-order scaling: directions are
/// S^-1 m, not S^-1/2 m. K = I at first, so a zero gradient may come first. The paper's own update
/// rule is `Averaging::kHeavyBall` at `MomentumPlace::kAfter` and `WeightDecay::kDirection`.
///
/// Cost for each dense axis: two products with G, two Gram matrices of size d_i (of X and K), a
/// product of matrices d_i x d_i and one Gram matrix at a refresh; one product otherwise. Other
/// structures cost less as they have fewer entries. Memory: three matrices for dense and triangular
/// structures (K, N and K K^T), otherwise K and N.
///
/// With state in bfloat16 (`ViewOptions::dtype`), K and N alone, arithmetic is in float32 and K is
/// rounded up or down at random with the right mean: most steps of rate 0.01 are less than half of
/// a number's distance to the next, and rounding to the nearest would lose them. A refresh takes a
/// random number for each entry of K, a direction two products an axis. The program sirfshampoo
/// rounds to the nearest.
/// @random{rounding to bfloat16}
/// @throws OptionError
EstimatorFactory sirf_estimator(const SirfOptions& options = {});

}  // namespace curvature::optim
