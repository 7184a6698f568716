#include "layerwise/probe.hpp"

#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/variable.h>

#include <curvature/core/random.hpp>

#include "core/densified.hpp"

namespace curvature::detail {
namespace {

/// w_n for each entry of the output's first axis, `[size, 1...]`; all of one example's are equal.
at::Tensor spread(const at::Tensor& weights, const at::Tensor& output) {
  Shape shape(static_cast<size_t>(output.dim()), 1);
  shape[0] = output.size(0);
  const int64_t entries = output.size(0) / weights.numel();
  return weights.flatten().repeat_interleave(entries).view(shape);
}

}  // namespace

Probe::Probe(const Recorded& recorded, int64_t num_examples, const TensorList& parameters)
    : num_examples_(num_examples) {
  const at::NoGradGuard no_grad;
  const at::Tensor output = recorded.output.detach();
  const at::Tensor cotangent =
      RandomSource().normal(0, output.numel()).to(output.options()).view(output.sizes());
  weights_ = at::arange(1, num_examples + 1, output.options()).view({-1, 1, 1});

  std::vector<torch::autograd::Edge> edges;
  for (const auto& use : recorded.uses) {
    edges.push_back(use->output);
    shapes_.push_back(use->output_shape);
  }
  if (num_examples > 1) {  // one example has all rows
    weighted_ = output_gradients(recorded.output, cotangent * spread(weights_, output), edges);
  }
  for (const at::Tensor& parameter : parameters) {
    edges.push_back(torch::autograd::impl::gradient_edge(parameter));
  }
  TensorList gradients = densified(output_gradients(recorded.output, cotangent, edges));
  const auto first_parameter =
      gradients.begin() + static_cast<std::ptrdiff_t>(recorded.uses.size());
  at_uses_.assign(gradients.begin(), first_parameter);
  for (size_t i = 0; i < parameters.size(); ++i) {
    const at::Tensor& gradient = gradients[recorded.uses.size() + i];
    const at::Tensor known = gradient.defined() ? gradient : at::zeros_like(parameters[i].detach());
    at_parameters_.push_back(known.unsqueeze(-1));
  }
}

bool Probe::allows(size_t use, bool examples_second) const {
  const Shape& shape = shapes_[use];
  if (num_examples_ == 1 || shape.size() < 2 || !at_uses_[use].defined()) return true;
  const ExampleAxis axis{num_examples_, examples_second};
  const auto rows = rows_of_examples(at_uses_[use].reshape(shape), axis);
  if (!rows) return false;
  const at::Tensor weighted = *rows_of_examples(weighted_[use].reshape(shape), axis);
  const double error = (weighted - *rows * weights_).norm().item<double>();
  return error <= rule_tolerance(weighted.scalar_type()) * weighted.norm().item<double>();
}

double rule_tolerance(at::ScalarType dtype) { return dtype == at::kDouble ? 1e-8 : 1e-3; }

}  // namespace curvature::detail
