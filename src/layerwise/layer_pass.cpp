#include "layerwise/layer_pass.hpp"

#include <algorithm>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include "core/check.hpp"

namespace curvature::detail {

LayerPass::LayerPass(const EmpiricalRisk& risk, const LayerPlan& plan, const BatchRisk& batch,
                     bool separate_bias)
    : plan_(plan),
      first_example_(batch.first_example()),
      num_examples_(batch.batch().size()),
      parts_(plan.blocks.size()) {
  Recorded recorded = record(risk, batch);
  output_ = recorded.output;
  for (const auto& use : recorded.uses) {
    const MatchedUse matched = match_use(use, example_axis(plan, *use, num_examples_));
    use->check_unchanged();
    for (const LayerPart& whole : matched.parts) {
      for (LayerPart& part : split(whole, separate_bias)) {
        const auto block = std::find_if(
            plan.blocks.begin(), plan.blocks.end(),
            [&part](const LayerBlock& candidate) { return same_block(candidate, part); });
        if (block == plan.blocks.end()) continue;  // not covered
        parts_[static_cast<size_t>(block - plan.blocks.begin())].push_back(
            {std::move(part), edges_.size(), use->output_shape});
      }
    }
    edges_.push_back(use->output);
  }
}

const std::vector<LayerPass::Part>& LayerPass::parts_of(size_t block) const {
  CURVATURE_CHECK(!parts_[block].empty(), NotSupportedError,
                  "layers: the {} layer {} is not used in the batch that begins with example {}",
                  plan_.blocks[block].kind, block, first_example_);
  return parts_[block];
}

int64_t LayerPass::num_positions(size_t block) const {
  const at::NoGradGuard no_grad;
  int64_t positions = 0;
  for (const Part& part : parts_[block]) {
    const at::Tensor zeros = at::zeros(part.output_shape, output_.options().requires_grad(false));
    positions += part.part.gradients(zeros).size(1);
  }
  return positions;
}

at::Tensor LayerPass::inputs(size_t block) const {
  const at::NoGradGuard no_grad;
  const LayerBlock& layout = plan_.blocks[block];
  const at::TensorOptions options = output_.options().requires_grad(false);
  TensorList uses;
  for (const Part& part : parts_of(block)) {
    at::Tensor a;
    if (part.part.inputs != nullptr) {
      a = part.part.inputs();
      if (layout.bias) {
        const double one = part.part.bias ? 1 : 0;  // a use may leave the bias out
        a = at::cat({a, at::full({a.size(0), a.size(1), 1}, one, options)}, 2);
      }
    } else {
      // As many ones as the gradient has positions.
      const at::Tensor g = part.part.gradients(at::zeros(part.output_shape, options));
      a = at::ones({g.size(0), g.size(1), 1}, options);
    }
    uses.push_back(a);
  }
  return uses.size() == 1 ? uses.front() : at::cat(uses, 1);
}

std::optional<int64_t> LayerPass::add_moment(size_t block, at::Tensor& sum) const {
  const at::NoGradGuard no_grad;
  const std::vector<Part>& parts = parts_of(block);
  if (!std::all_of(parts.begin(), parts.end(),
                   [](const Part& part) { return part.part.moment_is_cheaper; })) {
    return std::nullopt;
  }
  const int64_t inputs = plan_.blocks[block].weight_columns;
  at::Tensor second = sum.narrow(0, 0, inputs).narrow(1, 0, inputs);
  int64_t count = 0;
  for (const Part& part : parts) {
    const InputMoment moment = part.part.add_moment(second);
    count += moment.count;
    if (!part.part.bias) continue;
    sum.select(1, inputs).narrow(0, 0, inputs).add_(moment.first);
    sum.select(0, inputs).narrow(0, 0, inputs).add_(moment.first);
    sum.select(0, inputs).select(0, inputs).add_(moment.count);
  }
  return count;
}

at::Tensor LayerPass::indices(size_t block) const {
  TensorList uses;
  for (const Part& part : parts_of(block)) uses.push_back(part.part.indices());
  return uses.size() == 1 ? uses.front() : at::cat(uses, 1);
}

TensorList LayerPass::gradients(const at::Tensor& cotangent) const {
  const at::NoGradGuard no_grad;
  const TensorList at_outputs = output_gradients(output_, cotangent, edges_);
  TensorList result;
  for (size_t i = 0; i < parts_.size(); ++i) {
    TensorList uses;
    for (const Part& part : parts_of(i)) {
      const at::Tensor& g = at_outputs[part.edge];
      uses.push_back(part.part.gradients(
          g.defined() ? g.reshape(part.output_shape)
                      : at::zeros(part.output_shape, output_.options().requires_grad(false))));
    }
    result.push_back(uses.size() == 1 ? uses.front() : at::cat(uses, 1));
  }
  return result;
}

}  // namespace curvature::detail
