#pragma once

#include <cstdint>
#include <optional>

#include <curvature/optim/covariance_estimator.hpp>
#include <curvature/optim/refresh.hpp>

namespace curvature::optim {

/// How `spiked_kl_shampoo_estimator` estimates.
struct SpikedKlShampooOptions {
  int64_t rank = 16;      ///< r: eigenpairs that each factor keeps; shorter axes keep all
  double beta2 = 0.95;    ///< decay of all averages
  double exponent = 0.5;  ///< of the operator
  double damping = 0;     ///< d: fits the second moment plus d I
  bool debias = true;     ///< decays 1 - (1 - beta2) / (1 - beta2^t) instead of beta2
  bool balance = true;    ///< factors get equal mean eigenvalues; no direction depends on it
  /// Eigenvalues are at least this number times their mean, for each axis; empty: 1e-7 in float32,
  /// 1e-18 in float64.
  std::optional<double> relative_floor{};
  RefreshOptions refresh = {.interval = 10, .start = 10, .warm = 20};  ///< of the bases
  uint64_t seed = 0;  ///< of the subspaces at the start
};

/// KL-Shampoo with factors S_i = U_i diag(s_i - mu_i) U_i^T + mu_i I: r eigenpairs and one value
/// for all other directions, whose powers are U (s^p - mu^p) U^T + mu^p I. For a given basis the
/// arithmetic mean of the dropped eigenvalues is the mu that is nearest in KL(data || model).
///
/// With A = unfold_i(W) unfold_i(W)^T / D_i, W the gradient whitened along all other axes, which
/// needs neither A nor S as matrices,
///
///     s  <- b s + (1 - b) diag(U^T A U)
///     mu <- b mu + (1 - b) (tr A - tr U^T A U) / (d - r)
///     Y  <- b Y + (1 - b) A U
///
/// are the averages of `kl_shampoo_estimator` with those of the dropped directions tied together; Y
/// is S U of the S that is not kept. A refresh is one orthogonal iteration, U+ = orth(Y). What is
/// known of S by then, Y = S U and S = S^T, fixes all of S but its block outside of the old U, for
/// which mu I stands: Y+ = Y U^T U+ + U (Y - U U^T Y)^T U+ + mu (I - U U^T) U+. For r = d this is
/// KL-Shampoo. The first gradient only sets the scale, S_i = mean(G^2)^(1/k) I; U is random then,
/// for r = d the identity. After Pro-KLShampoo, arXiv 2605.06316, whose update rule it is not.
///
/// Cost for each axis: four products of the unfolded gradient with r x d matrices; a refresh O(d
/// r^2). Memory: 2 r d + r + 1 for each dense axis.
/// @random{U at the start}
/// @throws OptionError
EstimatorFactory spiked_kl_shampoo_estimator(const SpikedKlShampooOptions& options = {});

}  // namespace curvature::optim
