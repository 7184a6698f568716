#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include <curvature/core/random.hpp>
#include <curvature/layerwise/kfac.hpp>
#include <curvature/model/empirical_risk.hpp>
#include <curvature/optim/minimizer.hpp>

/// \file
/// Variational learning: the parameters are the mean of a Gaussian over weights. A step perturbs
/// the weights by draws from it, and moves the mean by the gradients at the perturbed weights,
/// preconditioned with the Gaussian's own precision
///
///     P = N / temperature (C + e I),  e = temperature prior_precision / N + weight_decay +
///     damping,
///
/// C a running average of the examples' mean curvature. With the risk's mean loss per example as
/// -log p this descends on the expected loss of all N examples plus temperature times the KL
/// divergence from the prior N(0, 1 / prior_precision).

namespace curvature::optim {

/// How `vogn` steps.
struct VognOptions {
  double learning_rate = 1e-2;  ///< what directions are multiplied by
  double momentum = 0.9;        ///< m <- momentum m + gradient
  double decay = 0.99;          ///< of the squared gradients' average
  double prior_precision = 1;   ///< of each weight
  double temperature = 1;       ///< of the KL divergence
  double damping = 1e-7;        ///< added to the precision's average, in its units
  int64_t mc_samples = 1;       ///< of the weights in a step; 0: none, the mean itself (OGN)
  /// N; empty: the number of examples of the risk.
  std::optional<int64_t> num_examples{};
  RandomSource random{};  ///< of the weights, told apart by the number of the step
};

/// VOGN: C is the diagonal of the mean of the examples' squared gradients. The first step, which
/// has no precision yet, is taken without noise. Costs two gradients for each sample. Khan et al.,
/// ICML 2018; Osawa et al., NeurIPS 2019. @throws OptionError
std::unique_ptr<Minimizer> vogn(const EmpiricalRisk& risk, const VognOptions& options = {});

/// How `noisy_kfac` steps.
struct NoisyKfacOptions {
  double learning_rate = 1e-2;      ///< what directions are multiplied by
  double momentum = 0.9;            ///< m <- momentum m + gradient
  double decay = 0.95;              ///< of the factors' averages, at every sample
  int64_t statistics_interval = 1;  ///< samples from one update of the factors to the next
  int64_t refresh_interval = 10;    ///< samples from one inverse and root to the next
  double prior_precision = 1;       ///< of each weight
  double temperature = 1;           ///< of the KL divergence
  double damping = 1e-7;            ///< added to the precision's average, in its units
  int64_t mc_samples = 1;           ///< of the weights in a step; 0: none
  /// N; empty: the number of examples of the risk.
  std::optional<int64_t> num_examples{};
  Fisher fisher = Fisher::kMonteCarlo;                    ///< of the statistics
  WeightSharing weight_sharing = WeightSharing::kExpand;  ///< see there
  Fallback fallback = Fallback::kRefuse;  ///< of parameters that no layer rule covers
  RandomSource random{};  ///< of weights and statistics, told apart by the number of the step
};

/// Noisy K-FAC: C is K-FAC, and weights are drawn from a matrix-variate Gaussian for each layer,
/// exactly, through the factors' eigenvectors. Costs two gradients and the factors' arithmetic for
/// each sample. Zhang, Sun, Duvenaud, Grosse, ICML 2018. @throws OptionError
std::unique_ptr<Minimizer> noisy_kfac(const EmpiricalRisk& risk,
                                      const NoisyKfacOptions& options = {});

}  // namespace curvature::optim
