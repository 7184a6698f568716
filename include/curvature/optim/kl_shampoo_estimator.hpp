#pragma once

#include <optional>

#include <curvature/optim/covariance_estimator.hpp>
#include <curvature/optim/eigenbasis.hpp>

namespace curvature::optim {

/// Where the eigenvalues of a Kronecker-factored operator come from.
enum class Eigenvalues {
  kRunning,    ///< an average for each axis, along the basis as it was in each step
  kFactor,     ///< the diagonal of the factor in its basis: its eigenvalues after a refresh by eigh
  kCorrected,  ///< the second moment along the whole basis: one number for each entry
};

/// How `kl_shampoo_estimator` estimates.
struct KlShampooEstimatorOptions {
  double beta2 = 0.95;    ///< decay of factors and eigenvalues
  double epsilon = 1e-8;  ///< added to the root of the eigenvalues
  double exponent = 0.5;  ///< of the operator
  double damping = 0;     ///< d: fits the second moment plus d I
  /// q of the Bregman divergence that is minimised: 0 Kullback-Leibler, 1/2 "square root", 1 von
  /// Neumann (trace-scaled Shampoo), 2 Frobenius. Any real number.
  double divergence = 0;
  bool debias = true;           ///< decays 1 - (1 - beta2) / (1 - beta2^t) instead of beta2
  bool balance = true;          ///< factors get equal mean eigenvalues; no direction depends on it
  bool bias_correction = true;  ///< of the second moment, for corrected eigenvalues
  Eigenvalues eigenvalues = Eigenvalues::kRunning;      ///< see there
  UpdateOrder order = UpdateOrder::kPreconditionFirst;  ///< see there
  BasisMethod basis_method = BasisMethod::kQr;          ///< see there
  Transport transport = Transport::kKeep;               ///< of corrected eigenvalues
  FirstGradient first_gradient = FirstGradient::kUse;   ///< see there
  std::optional<double> initial_eigenvalue{};  ///< of each factor; empty: from the first gradient
  /// Eigenvalues are at least this number times their mean, for each axis; empty: 1e-7 in float32,
  /// 0 in float64.
  std::optional<double> relative_floor{};
  RefreshOptions refresh = {.interval = 10, .start = 10, .warm = 20};  ///< of the basis
};

/// KL-Shampoo: the Kronecker product S_1 (x) ... (x) S_k nearest to E[g g^T] in the sense of
/// KL(N(0, E[g g^T]) || N(0, S)), followed by moving averages:
/// S_i <- b S_i + (1 - b) unfold_i(G x_{j != i} S_j^-1) unfold_i(G)^T / D_i. Lin et al., ICLR 2026,
/// sections 3 and 4; other divergences as in Liu et al. 2026, with S_j^(q-1) and
/// prod_{j != i} tr S_j^q in their places.
///
/// With running eigenvalues (the default) the basis follows by QR and the eigenvalues by averages
/// of their own; with `kFactor`, `kEigh` and refresh interval 1 it is the exact form. The first
/// gradient only sets the scale, S_i = mean(G^2)^(1/k) I. Axes that are diagonal have eigenvalues
/// only; those that are identities stay 1. State: two matrices and a vector for each dense axis
/// (k: and one entry for each of the parameter's, if corrected). A step costs two mode products and
/// a half Gram matrix for each dense axis; the power -1/2 of the operator is applied.
EstimatorFactory kl_shampoo_estimator(const KlShampooEstimatorOptions& options = {});

/// The defaults of the exact form: update first, an eigendecomposition in every step.
KlShampooEstimatorOptions exact_kl_shampoo_options();
/// The defaults of KL-SOAP: corrected eigenvalues along the basis of KL-Shampoo.
KlShampooEstimatorOptions kl_soap_options();

}  // namespace curvature::optim
