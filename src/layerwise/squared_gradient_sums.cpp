#include <string>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/layerwise/squared_gradients.hpp>

#include "layerwise/layer_pass.hpp"
#include "layerwise/squared_gradients.hpp"
#include "matrix_free/example_gradient.hpp"
#include "matrix_free/per_example.hpp"

namespace curvature {
namespace {

/// g times the square root of its example's weight.
at::Tensor weighted(const at::Tensor& g, const at::Tensor& weights) {
  if (!weights.defined()) return g;
  return g * weights.to(g.options()).sqrt().view({-1, 1, 1});
}

/// Adds what one batch says about the covered parameters; `sums` are `[shape..., 1]`.
void add_layers(const EmpiricalRisk& risk, const detail::LayerPlan& plan, const BatchRisk& batch,
                TensorList& sums) {
  const detail::Recorded recorded = detail::record(risk, batch);
  const detail::LayerPass pass(risk, plan, batch, recorded, /*separate_bias=*/false);
  const TensorList backward =
      pass.backward(detail::example_loss_gradient(risk, batch, pass.output()));
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    if (!pass.uses(i)) continue;
    const detail::LayerBlock& block = plan.blocks[i];
    const at::Tensor g = weighted(pass.gradients(i, backward), batch.batch().weights);
    at::Tensor squares = at::zeros({block.rows, block.columns()}, g.options());
    if (block.one_hot) {
      detail::add_squared_gradients_of_one_hot(g, pass.indices(i), squares);
    } else {
      detail::add_squared_gradients(g, pass.inputs(i), {}, {}, squares);
    }
    block.scatter_add(squares.reshape({-1, 1}), sums);
  }
}

/// Example by example.
TensorList sums_over_examples(const EmpiricalRisk& risk) {
  TensorList sums;
  for (const at::Tensor& parameter : risk.parameters()) {
    sums.push_back(at::zeros_like(parameter.detach()));
  }
  detail::for_each_example(
      risk, 0, risk.num_local_examples(), [&](int64_t, const detail::Example& example) {
        const at::Tensor cotangent =
            detail::example_loss_gradient(risk, example.risk, example.output.detach());
        const TensorList gradient = detail::vector_jacobian_product(
            detail::graph_edges({example.output}), risk.parameters(), {cotangent});
        const at::Tensor& weights = example.risk.batch().weights;
        const double weight = weights.defined() ? weights.item<double>() : 1;
        for (size_t i = 0; i < gradient.size(); ++i) {
          if (gradient[i].defined()) sums[i].addcmul_(gradient[i], gradient[i], weight);
        }
      });
  return sums;
}

}  // namespace

TensorList squared_gradient_sums(const EmpiricalRisk& risk, const Observer& observer) {
  const detail::LayerPlan plan = detail::plan_layers(risk, {});
  TensorList sums;
  for (const at::Tensor& parameter : risk.parameters()) {
    sums.push_back(at::zeros_like(parameter.detach()).unsqueeze(-1));
  }
  const int64_t num_batches = risk.data().num_batches();
  for (int64_t index = 0; index < num_batches; ++index) {
    detail::for_each_piece(risk, plan, risk.on(index),
                           [&](const BatchRisk& piece) { add_layers(risk, plan, piece, sums); });
    if (observer) observer({"squared gradients", index + 1, num_batches});
  }
  for (at::Tensor& sum : sums) sum = sum.squeeze(-1);
  if (!plan.uncovered.empty()) {
    std::vector<std::string> names;
    for (const auto& [parameter, reason] : plan.uncovered) {
      names.push_back(risk.space().entries()[parameter].name);
    }
    const EmpiricalRisk others = risk.with_parameters(names);
    const TensorList parts = sums_over_examples(others);
    for (size_t i = 0; i < names.size(); ++i) {
      sums[*risk.space().find(others.space().entries()[i].name)].copy_(parts[i]);
    }
  }
  risk.reducer().sum(sums);
  return sums;
}

}  // namespace curvature
