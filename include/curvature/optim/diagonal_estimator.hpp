#pragma once

#include <curvature/optim/covariance_estimator.hpp>

namespace curvature::optim {

/// How `adam_estimator` estimates.
struct AdamEstimatorOptions {
  double beta2 = 0.95;          ///< decay of the average of squares
  double epsilon = 1e-8;        ///< added to the root
  double exponent = 0.5;        ///< of the second moment: U = M / (V^exponent + epsilon)
  bool bias_correction = true;  ///< V is divided by 1 - beta2^t
};

/// S = diag(V), V <- beta2 V + (1 - beta2) G o G: Adam's second moment. Kingma, Ba, ICLR 2015.
/// State: as large as the parameter.
EstimatorFactory adam_estimator(const AdamEstimatorOptions& options = {});

/// S = I: directions are momenta, as in gradient descent. No state.
EstimatorFactory identity_estimator();

}  // namespace curvature::optim
