#pragma once

#include <curvature/optim/covariance_estimator.hpp>

namespace curvature::optim {

/// How `adam_estimator` estimates.
struct AdamEstimatorOptions {
  double beta2 = 0.95;          ///< decay of the average of squares
  double epsilon = 1e-8;        ///< added to the root
  double exponent = 0.5;        ///< of the second moment: U = M / (V^exponent + epsilon)
  bool bias_correction = true;  ///< V is divided by 1 - beta2^t
  double initial_value = 0;     ///< of V; above 0 only without bias correction
  /// B, of the mean loss whose gradients are given: B V stands for V in directions and snapshot.
  int64_t batch_size = 1;
};

/// S = diag(V), V <- beta2 V + (1 - beta2) G o G: Adam's second moment. Kingma, Ba, ICLR 2015.
/// Directions are M / ((B V)^exponent + epsilon). State: as large as the parameter.
/// @throws OptionError
EstimatorFactory adam_estimator(const AdamEstimatorOptions& options = {});

/// Adam without its root, U = M / (B V + epsilon) with V = 1/B at first: B V estimates a diagonal
/// of the Fisher matrix from gradients of a mean over B examples, and is 1 at first since steps
/// from 0 would explode. Lin et al., "Can we remove the square root in adaptive gradient methods?",
/// ICML 2024: RF-AdamW as it is; RF-RMSProp with `Averaging::kHeavyBall`, `MomentumPlace::kAfter`
/// and `WeightDecay::kDirection`.
AdamEstimatorOptions root_free_adam_options(int64_t batch_size);

/// S = I: directions are momenta, as in gradient descent. No state.
EstimatorFactory identity_estimator();

}  // namespace curvature::optim
