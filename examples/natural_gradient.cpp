// A small regression by natural gradients that differ in what stands for the GGN: K-FAC, EK-FAC,
// or the whole matrix, which is inverted in the space of the data. Prints losses after some steps.
#include <iomanip>
#include <iostream>

#include <torch/torch.h>

#include <curvature/optim/natural_gradient.hpp>

namespace optim = curvature::optim;

/// Losses on all examples before each step.
std::vector<double> losses(optim::FisherApproximation approximation) {
  torch::manual_seed(0);
  torch::nn::Sequential net(torch::nn::Linear(8, 16), torch::nn::Tanh(), torch::nn::Linear(16, 16),
                            torch::nn::Tanh(), torch::nn::Linear(16, 1));
  net->to(torch::kDouble);
  const torch::Tensor x = torch::randn({64, 8}, torch::kDouble);
  const torch::Tensor y = x.sum(1, true).sin();
  const curvature::EmpiricalRisk risk(curvature::Model::from_module(net),
                                      curvature::mean_squared_error(),
                                      curvature::tensor_dataset({x}, y, x.size(0)));
  // Length and momentum minimise the quadratic model, whose success decides the damping.
  const auto optimizer = optim::natural_gradient(
      risk, {.curvature = approximation,
             .learning_rate = 1,
             .step_size = optim::StepSize::kQuadraticModel,
             .damping = 1,
             .damping_rule = optim::DampingRule::kNielsen,
             .damping_interval = 1,
             .reject_increase = true,
             .decay = 0.1,  // all examples are in every step: old statistics are only old
             .refresh_interval = 1,
             .fisher = curvature::Fisher::kType2});
  std::vector<double> history;
  for (int step = 0; step <= 60; ++step) history.push_back(optimizer->step(risk).loss);
  return history;
}

int main() {
  // 433 parameters and 64 residuals: the GGN has rank 64, so that U U^T with 64 columns is all of
  // it.
  const auto kfac = losses(optim::FisherApproximation::kKfac);
  const auto ekfac = losses(optim::FisherApproximation::kEkfac);
  const auto whole = losses(optim::FisherApproximation::kFull);
  std::cout << "steps        K-FAC       EK-FAC    whole GGN\n" << std::scientific;
  for (const size_t step : {0, 5, 10, 15, 20, 30, 60}) {
    std::cout << std::setw(5) << step << std::setprecision(2);
    for (const auto& history : {kfac, ekfac, whole}) std::cout << std::setw(13) << history[step];
    std::cout << '\n';
  }
  // Gauss and Newton's method converges quadratically where the residuals can be zero.
  if (!(whole[15] < 1e-12 && 1e-12 < kfac[15])) {
    std::cout << "wrong: the exact steps are no better\n";
  }
}
