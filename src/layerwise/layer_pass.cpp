#include "layerwise/layer_pass.hpp"

#include <algorithm>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/variable.h>

#include "core/check.hpp"
#include "layerwise/gram.hpp"

namespace curvature::detail {
namespace {

/// Moments of [a; b] with a constant b, 1 or, for a use without bias, 0.
InputMoment with_constant(const InputMoment& moment, double constant) {
  const int64_t n = moment.first.size(0);
  at::Tensor second = at::zeros({n + 1, n + 1}, moment.second.options());
  second.narrow(0, 0, n).narrow(1, 0, n).copy_(moment.second);
  second.select(0, n).narrow(0, 0, n).copy_(moment.first * constant);
  second.select(0, n).select(0, n).fill_(moment.count * constant);
  return {second, {}, moment.count};
}

}  // namespace

LayerPass::LayerPass(const EmpiricalRisk& risk, const LayerPlan& plan, const BatchRisk& batch,
                     const Recorded& recorded, bool separate_bias)
    : plan_(plan),
      space_(risk.space()),
      first_example_(batch.first_example()),
      num_examples_(batch.batch().size()),
      output_(recorded.output),
      parts_(plan.blocks.size()) {
  const std::vector<MatchedUse> matched = match_uses(plan, recorded, num_examples_);
  for (size_t i = 0; i < matched.size(); ++i) {
    const OperationUse& use = *recorded.uses[i];
    use.check_unchanged();
    add_parts(use, matched[i], separate_bias);
    edges_.push_back(use.output);
  }
}

void LayerPass::add_parts(const OperationUse& use, const MatchedUse& matched, bool separate_bias) {
  const auto check_known = [&](size_t parameter) {
    CURVATURE_CHECK(plan_.uncovered.count(parameter) > 0, NotSupportedError,
                    "layers: the batch that begins with example {} uses '{}' ({}) in a way that "
                    "the first batch does not; a model's use of its parameters must not depend on "
                    "the data",
                    first_example_, space_.entries()[parameter].name, use.name);
  };
  if (matched.parts.empty() && !matched.joined) {
    for (const ParameterArgument& argument : use.parameters) check_known(argument.parameter);
  }
  for (const LayerPart& whole : matched.parts) {
    for (LayerPart& part : split(whole, separate_bias)) {
      const auto block = std::find_if(
          plan_.blocks.begin(), plan_.blocks.end(),
          [&part](const LayerBlock& candidate) { return same_block(candidate, part); });
      if (block == plan_.blocks.end()) {
        check_known(part.weight ? *part.weight : *part.bias);
      } else {
        parts_[static_cast<size_t>(block - plan_.blocks.begin())].push_back(
            {std::move(part), num_wholes_, edges_.size(), use.output_shape});
      }
    }
    ++num_wholes_;
  }
}

int64_t LayerPass::positions_of(const Part& part) const {
  const at::NoGradGuard no_grad;
  return part.part.gradients(at::zeros({}, options()).expand(part.output_shape)).size(1);
}

int64_t LayerPass::num_positions(size_t block) const {
  int64_t positions = 0;
  for (const Part& part : parts_[block]) positions += positions_of(part);
  return positions;
}

at::Tensor LayerPass::inputs(size_t block) const {
  const at::NoGradGuard no_grad;
  const LayerBlock& layout = plan_.blocks[block];
  TensorList uses;
  for (const Part& part : parts_[block]) {
    at::Tensor a;
    if (part.part.inputs != nullptr) {
      a = part.part.inputs();
      if (layout.bias) {
        const double one = part.part.bias ? 1 : 0;  // a use may leave the bias out
        a = at::cat({a, at::full({a.size(0), a.size(1), 1}, one, options())}, 2);
      }
    } else {
      a = at::ones({num_examples_, positions_of(part), 1}, options());
    }
    uses.push_back(a);
  }
  return uses.size() == 1 ? uses.front() : at::cat(uses, 1);
}

InputMoment LayerPass::moment_of(const Part& part, const at::Tensor& weights) const {
  if (part.part.inputs == nullptr) {
    const double count =
        (weights.defined() ? weights.sum().item<double>() : static_cast<double>(num_examples_)) *
        static_cast<double>(positions_of(part));
    return {at::full({1, 1}, count, options()), {}, count};
  }
  const std::string& key = part.part.input_key;
  if (const auto known = moments_.find(key); !key.empty() && known != moments_.end()) {
    return known->second;
  }
  InputMoment moment;
  if (part.part.moment != nullptr && !weights.defined()) {
    moment = part.part.moment();
  } else {
    at::Tensor a = part.part.inputs();
    moment.count = static_cast<double>(a.size(0) * a.size(1));
    moment.second = at::zeros({a.size(2), a.size(2)}, options());
    if (weights.defined()) {
      const at::Tensor w = weights.to(options());
      moment.count = w.sum().item<double>() * static_cast<double>(a.size(1));
      moment.first = a.sum(1).t().mv(w);
      a = a * w.sqrt().view({-1, 1, 1});
    } else {
      moment.first = a.flatten(0, 1).sum(0);
    }
    add_gram_of_examples(moment.second, a);
  }
  if (!key.empty()) moments_[key] = moment;
  return moment;
}

InputMoment LayerPass::input_moment(size_t block, const at::Tensor& weights) const {
  const at::NoGradGuard no_grad;
  InputMoment sum;
  for (const Part& part : parts_[block]) {
    InputMoment moment = moment_of(part, weights);
    if (part.part.inputs != nullptr && plan_.blocks[block].bias) {
      moment = with_constant(moment, part.part.bias ? 1 : 0);
    }
    sum.second = sum.second.defined() ? sum.second + moment.second : moment.second;
    sum.count += moment.count;
  }
  return sum;
}

at::Tensor LayerPass::indices(size_t block) const {
  TensorList uses;
  for (const Part& part : parts_[block]) uses.push_back(part.part.indices());
  return uses.size() == 1 ? uses.front() : at::cat(uses, 1);
}

TensorList LayerPass::backward(const at::Tensor& cotangent, const TensorList& parameters) const {
  std::vector<torch::autograd::Edge> edges = edges_;
  for (const at::Tensor& parameter : parameters) {
    edges.push_back(torch::autograd::impl::gradient_edge(parameter));
  }
  return output_gradients(output_, cotangent, edges);
}

at::Tensor LayerPass::gradients(size_t block, const TensorList& backward) const {
  const at::NoGradGuard no_grad;
  TensorList uses;
  for (const Part& part : parts_[block]) {
    const at::Tensor& g = backward[part.edge];
    uses.push_back(part.part.gradients(g.defined() ? g.reshape(part.output_shape)
                                                   : at::zeros(part.output_shape, options())));
  }
  return uses.size() == 1 ? uses.front() : at::cat(uses, 1);
}

bool LayerPass::same_gradients(size_t block, size_t other) const {
  return std::equal(parts_[block].begin(), parts_[block].end(), parts_[other].begin(),
                    parts_[other].end(),
                    [](const Part& a, const Part& b) { return a.whole == b.whole; });
}

}  // namespace curvature::detail
