#pragma once

#include <optional>

#include <curvature/optim/covariance_estimator.hpp>
#include <curvature/optim/eigenbasis.hpp>

namespace curvature::optim {

/// How `soap_estimator` and `eshampoo_estimator` estimate.
struct SoapEstimatorOptions {
  double beta2 = 0.95;                   ///< decay of the second moment along the basis
  std::optional<double> shampoo_beta{};  ///< decay of the factors; empty: beta2
  double epsilon = 1e-8;                 ///< added to the root of the second moment
  double exponent = 0.5;                 ///< of the second moment
  bool bias_correction = true;           ///< the second moment is divided by 1 - beta2^t
  UpdateOrder order = UpdateOrder::kPreconditionFirst;  ///< see there
  BasisMethod basis_method = BasisMethod::kQr;          ///< see there
  Transport transport = Transport::kKeep;               ///< see there
  FirstGradient first_gradient = FirstGradient::kUse;   ///< see there
  RefreshOptions refresh = {.interval = 10};            ///< of the basis
};

/// Adam in the eigenbasis of Shampoo's factors S_i <- b S_i + (1 - b) G_(i) G_(i)^T: with P the
/// gradient in the basis, V <- beta2 V + (1 - beta2) P o P, U = rotate back of
/// rotate(M) / (V^1/2 + epsilon). Vyas et al., ICLR 2025.
///
/// The operator is eigen-decomposed: Kronecker basis, eigenvalues V; its power -1/2 is applied.
/// Until the first refresh the basis is the identity: Adam. Axes that are not dense keep the
/// identity. State: two matrices for each dense axis, and V. A step costs two mode products and a
/// half Gram matrix for each dense axis: factors and momentum are kept in the basis' own
/// coordinates, so that nothing is rotated twice.
EstimatorFactory soap_estimator(const SoapEstimatorOptions& options = {});

/// The defaults of EShampoo (Eschenhagen et al., NeurIPS 2025): the basis is renewed first, by
/// eigendecompositions.
SoapEstimatorOptions eshampoo_options();
/// SOAP with other defaults.
EstimatorFactory eshampoo_estimator(const SoapEstimatorOptions& options = eshampoo_options());

}  // namespace curvature::optim
