#pragma once

#include <optional>

#include <curvature/optim/covariance_estimator.hpp>
#include <curvature/optim/refresh.hpp>

namespace curvature::optim {

/// How a factor's power -p is computed.
enum class RootMethod {
  kEigh,        ///< by an eigendecomposition
  kNewton,      ///< by coupled Newton steps, products alone: 10 to 28 of four products and more
  kThirdOrder,  ///< by steps of third order, two thirds as many of five products and more
};

/// How `shampoo_estimator` estimates.
struct ShampooEstimatorOptions {
  double beta2 = 0.95;               ///< decay of the factors' averages
  double factor_epsilon = 1e-12;     ///< added to the factors' eigenvalues
  std::optional<double> exponent{};  ///< p of each factor; empty: 1 / (2 k) for k axes
  bool accumulate_sum = false;       ///< factors are sums, as in AdaGrad, instead of averages
  /// Directions are multiplied by tr(S_1)^((k - 1) / 2): with p = 1/2 the operator is the Kronecker
  /// product of the trace of its factors.
  bool trace_scaling = false;
  /// Eigenvalues up to this number times the largest count as 0 and so do their powers; 0: none.
  double rank_tolerance = 0;
  bool bias_correction = true;  ///< averages are divided by 1 - beta2^t
  /// How roots are computed. By products 1/p must be whole and `rank_tolerance` 0; a matrix that is
  /// too ill-conditioned for its dtype (1e7 in float32) is decomposed all the same.
  RootMethod root = RootMethod::kEigh;
  RefreshOptions refresh{};  ///< of the roots
};

/// Shampoo: factors S_i <- beta2 S_i + (1 - beta2) G_(i) G_(i)^T; U = M x_1 S_1^-p ... x_k S_k^-p,
/// with the gradient of the same step in the factors. Until the first refresh U = M.
///
/// p = 1/(2k) is Gupta, Koren, Singer, ICML 2018; p = 1/2 with trace scaling Morwani et al., ICLR
/// 2025. An axis that is diagonal keeps the diagonal of its factor. State: two matrices for each
/// dense axis. A step costs k mode products and k half Gram matrices; a refresh an
/// eigendecomposition of each factor. The snapshot is S_1^2p (x) ... (x) S_k^2p / c^2, whose power
/// -1/2 is applied.
EstimatorFactory shampoo_estimator(const ShampooEstimatorOptions& options = {});

}  // namespace curvature::optim
