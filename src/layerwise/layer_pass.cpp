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
        if (!part.input_key.empty()) ++key_counts_[part.input_key];
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

std::vector<size_t> LayerPass::uses_of(size_t block) const {
  std::vector<size_t> uses;
  for (const Part& part : parts_[block]) uses.push_back(part.edge);
  return uses;
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

InputMoment LayerPass::add_moment(const Part& part, const at::Tensor& weights,
                                  at::Tensor& second) const {
  if (part.part.moment_is_cheaper && !weights.defined()) return part.part.add_moment(second);
  at::Tensor a = part.part.inputs();
  InputMoment moment{.first = {}, .count = static_cast<double>(a.size(0) * a.size(1))};
  if (weights.defined()) {
    const at::Tensor w = weights.to(options());
    moment.count = w.sum().item<double>() * static_cast<double>(a.size(1));
    moment.first = a.sum(1).t().mv(w);
    a = a * w.sqrt().view({-1, 1, 1});
  } else {
    moment.first = a.flatten(0, 1).sum(0);
  }
  add_gram(second, a);
  return moment;
}

double LayerPass::add_input_moment(size_t block, const at::Tensor& weights, at::Tensor& sum) const {
  const at::NoGradGuard no_grad;
  const int64_t n = plan_.blocks[block].weight_columns;
  double total = 0;
  for (const Part& part : parts_[block]) {
    if (part.part.inputs == nullptr) {  // a = 1
      const double examples =
          weights.defined() ? weights.sum().item<double>() : static_cast<double>(num_examples_);
      const double count = examples * static_cast<double>(positions_of(part));
      sum.add_(count);
      total += count;
      continue;
    }
    at::Tensor second = sum.narrow(0, 0, n).narrow(1, 0, n);
    InputMoment moment;
    const std::string& key = part.part.input_key;
    if (key.empty() || key_counts_.at(key) == 1) {
      moment = add_moment(part, weights, second);
    } else {
      auto [known, is_new] = shared_moments_.try_emplace(key);
      if (is_new) {
        known->second.first = at::zeros({n, n}, options());
        known->second.second = add_moment(part, weights, known->second.first);
      }
      second.add_(known->second.first);
      moment = known->second.second;
    }
    total += moment.count;
    if (!part.part.bias) continue;  // a use may leave the bias out
    sum.select(0, n).narrow(0, 0, n).add_(moment.first);
    sum.select(0, n).select(0, n).add_(moment.count);
  }
  return total;
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
