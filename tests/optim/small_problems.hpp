#pragma once

#include <torch/torch.h>

#include <curvature/core/random.hpp>
#include <curvature/model/empirical_risk.hpp>

#include "support/tensor_close.hpp"

namespace curvature::testing {

/// Numbers in [-1, 1] that depend on `seed` only.
inline at::Tensor numbers(at::IntArrayRef shape, uint64_t seed) {
  const at::Tensor unit = RandomSource(seed).uniform(0, c10::multiply_integers(shape));
  return (2 * unit.to(test_device()) - 1).view(shape);
}

/// A module in float64 whose parameters depend on `seed` only.
template <class Net>
Net seeded(Net net, uint64_t seed) {
  const at::NoGradGuard no_grad;
  net->to(test_device(), at::kDouble);
  for (at::Tensor& parameter : net->parameters()) {
    parameter.copy_(0.8 * numbers(parameter.sizes(), seed++));
  }
  return net;
}

/// Two layers, tanh between them or nothing; nine examples.
inline torch::nn::Sequential two_layers(bool linear, uint64_t seed = 5) {
  torch::nn::Sequential net(torch::nn::Linear(3, 4));
  if (!linear) net->push_back(torch::nn::Tanh());
  net->push_back(torch::nn::Linear(4, 2));
  return seeded(net, seed);
}

inline EmpiricalRisk regression(const torch::nn::Sequential& net, RiskOptions options = {}) {
  return EmpiricalRisk(Model::from_module(net), mean_squared_error(),
                       tensor_dataset({numbers({9, 3}, 1)}, numbers({9, 2}, 2), 9),
                       std::move(options));
}

/// Binary classification by a linear model, 200 examples that no plane separates.
inline EmpiricalRisk logistic_regression() {
  const auto layer = seeded(torch::nn::Linear(6, 1), 3);
  {
    const at::NoGradGuard no_grad;
    for (at::Tensor& parameter : layer->parameters()) parameter.zero_();
  }
  const at::Tensor inputs = 2 * numbers({200, 6}, 4);
  const at::Tensor targets = (inputs.sum(1, true) + 3 * numbers({200, 1}, 6)).gt(0).to(at::kDouble);
  return EmpiricalRisk(Model::from_module(layer), binary_cross_entropy_with_logits(),
                       tensor_dataset({inputs}, targets, 200));
}

inline at::Tensor flat(const TensorList& list) {
  TensorList parts;
  for (const at::Tensor& part : list) parts.push_back(part.detach().reshape(-1).clone());
  return at::cat(parts);
}
inline at::Tensor parameters_of(const EmpiricalRisk& risk) { return flat(risk.parameters()); }
inline at::Tensor gradient_of(const EmpiricalRisk& risk) { return flat(risk.gradient()); }
inline double gradient_norm(const EmpiricalRisk& risk) {
  return gradient_of(risk).norm().item<double>();
}

}  // namespace curvature::testing
