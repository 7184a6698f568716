// K-FAC of an unmodified network as an operator, and a natural gradient step with its exact damped
// inverse.
#include <iostream>

#include <torch/torch.h>

#include <curvature/layerwise/damping.hpp>
#include <curvature/layerwise/kfac_estimator.hpp>
#include <curvature/operators/algebra.hpp>

int main() {
  torch::manual_seed(0);
  torch::nn::Sequential net(torch::nn::Linear(8, 32), torch::nn::Tanh(), torch::nn::Linear(32, 3));
  const torch::Tensor inputs = torch::randn({200, 8});
  const torch::Tensor labels = torch::randint(3, {200}, torch::kLong);
  const curvature::EmpiricalRisk risk(curvature::Model::from_module(net),
                                      curvature::cross_entropy(),
                                      curvature::tensor_dataset({inputs}, labels, 64));
  for (const auto& [name, treatment, covered] : curvature::describe_layers(risk)) {
    std::cout << name << ": " << treatment << '\n';
  }

  const double damping = 1e-3;
  const auto kfac = curvature::kfac(risk);
  std::cout << kfac->describe() << " has trace " << *kfac->trace() << '\n';
  const auto inverse = curvature::inverse(curvature::shifted(kfac, damping));  // exact

  // The same statistics batch by batch, as training collects them.
  curvature::KfacEstimator estimator(risk, {}, /*decay=*/0.95);
  for (int64_t batch = 0; batch < risk.data().num_batches(); ++batch) {
    estimator.update(risk.on(batch));
  }
  const auto average = curvature::damped(estimator.kfac(), {.damping = damping});
  std::cout << "its decaying average, damped: trace " << *average->trace() << '\n';

  const auto gradient = risk.gradient();
  const auto step = inverse->apply(gradient);  // a natural gradient step
  const auto back = curvature::shifted(kfac, damping)->apply(step);
  for (size_t i = 0; i < step.size(); ++i) {
    const double error = (back[i] - gradient[i]).norm().item<double>();
    if (error > 1e-3) std::cout << "wrong: the error is " << error << '\n';
  }
}
