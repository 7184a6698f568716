#pragma once

#include <vector>

#include <curvature/core/progress.hpp>
#include <curvature/core/random.hpp>
#include <curvature/model/empirical_risk.hpp>

#include "cli/demo_data.hpp"
#include "cli/demo_network.hpp"

namespace curvature::cli {

/// Stochastic gradient descent with momentum; the learning rate falls to zero along a cosine.
struct TrainingOptions {
  int64_t epochs = 1;
  int64_t batch_size = 100;
  double learning_rate = 0.05;
  double momentum = 0.9;
  /// How often the risk is looked at, start and end included: at least 2, at most one for a step.
  int64_t num_records = 30;
  int64_t lanczos_steps = 15;  ///< for the top eigenvalue at each record
};

/// How a risk moved while a network was trained.
struct TrainingRecords {
  std::vector<int64_t> steps;
  std::vector<double> losses;
  std::vector<double> top_eigenvalues;  ///< largest Ritz value of the Hessian, a lower bound
  std::vector<double> residuals;        ///< |H u - l u| of the Ritz vector
};

/// Trains `network` on the cross-entropy of the training images, in an order drawn from `random`.
/// `risk` is a risk of the same network, recorded on the way.
TrainingRecords train(const torch::jit::Module& network, const DemoData& data,
                      const EmpiricalRisk& risk, const TrainingOptions& options,
                      const RandomSource& random, const Observer& observer);

}  // namespace curvature::cli
