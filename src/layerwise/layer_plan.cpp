#include "layerwise/layer_plan.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/check.hpp"
#include "core/fast_kernels.hpp"
#include "layerwise/layer_pass.hpp"

namespace curvature::detail {

Recorded record(const EmpiricalRisk& risk, const BatchRisk& batch) {
  const FastKernels fast;
  const c10::InferenceMode no_inference(false);
  const at::AutoGradMode with_gradients(true);
  Recorded recorded;
  std::vector<OperationUse> uses =
      record_uses(risk.parameters(), [&] { recorded.output = batch.predict(); });
  for (OperationUse& use : uses) {
    recorded.uses.push_back(std::make_shared<const OperationUse>(std::move(use)));
  }
  return recorded;
}

std::vector<LayerPart> split(const LayerPart& part, bool separate_bias) {
  if (!separate_bias || !part.weight || !part.bias) return {part};
  LayerPart weight = part, bias = part;
  weight.bias.reset();
  bias.weight.reset();
  bias.inputs = nullptr;
  bias.moment_is_cheaper = false;
  return {weight, bias};
}

bool same_block(const LayerBlock& block, const LayerPart& part) {
  return block.group == part.group && block.layout.groups == part.layout.groups &&
         block.layout.transposed == part.layout.transposed &&
         (!block.one_hot || part.indices != nullptr) &&
         (part.weight ? block.weight == part.weight : !block.weight && block.bias == part.bias);
}

std::vector<MatchedUse> match_uses(const LayerPlan& plan, const Recorded& recorded,
                                   int64_t num_examples) {
  std::vector<MatchedUse> matched;
  for (const auto& use : recorded.uses) {
    const size_t parameter = use->parameters.front().parameter;
    matched.push_back(match_use(use, {num_examples, plan.sequence_first.count(parameter) > 0}));
  }
  for (size_t j = 0; j < matched.size(); ++j) {
    if (matched[j].parts.size() != 1 || !matched[j].parts.front().adds_to.is_valid()) continue;
    const LayerPart& bias = matched[j].parts.front();
    for (size_t i = 0; i < j; ++i) {
      if (!(recorded.uses[i]->output == bias.adds_to) || matched[i].parts.size() != 1) continue;
      LayerPart& layer = matched[i].parts.front();
      if (layer.inputs == nullptr || layer.indices != nullptr || layer.bias) continue;
      layer.bias = bias.bias;
      matched[j] = {.parts = {}, .reason = {}, .joined = true};
      break;
    }
  }
  return matched;
}

namespace {

/// Builds the blocks from all parts of a forward pass.
class Planner {
 public:
  Planner(const EmpiricalRisk& risk, const KfacOptions& options) : risk_(risk), options_(options) {}

  /// `other` is the forward pass of another number of examples, by which their axis is recognised.
  LayerPlan plan(const Recorded& recorded, int64_t num_examples, const Recorded& other,
                 int64_t other_examples) {
    find_example_axes(recorded, num_examples, other, other_examples);
    std::set<size_t> used;
    std::vector<LayerPart> parts;
    for (const auto& use : recorded.uses) {
      for (const ParameterArgument& argument : use->parameters) used.insert(argument.parameter);
    }
    for (const MatchedUse& matched : match(recorded, num_examples)) {
      for (const LayerPart& part : matched.parts) {
        for (LayerPart& piece : split(part, options_.separate_bias))
          parts.push_back(std::move(piece));
      }
    }
    match(other, other_examples);
    find_unused(used);
    for (const LayerPart& part : parts) add(part);
    drop_uncovered();
    return std::move(plan_);
  }

 private:
  /// Parameters of a use that no rule knows are not covered.
  std::vector<MatchedUse> match(const Recorded& recorded, int64_t num_examples) {
    std::vector<MatchedUse> all = match_uses(plan_, recorded, num_examples);
    for (size_t i = 0; i < all.size(); ++i) {
      if (!all[i].parts.empty() || all[i].joined) continue;
      const OperationUse& use = *recorded.uses[i];
      for (const ParameterArgument& argument : use.parameters) {
        plan_.uncovered.insert({argument.parameter, all[i].reason + " (" + use.name + ")"});
      }
    }
    return all;
  }

  /// The first axis of a sequence that comes first does not grow with the examples, the second
  /// does.
  void find_example_axes(const Recorded& recorded, int64_t num_examples, const Recorded& other,
                         int64_t other_examples) {
    if (recorded.uses.size() != other.uses.size()) return;
    std::map<size_t, bool> is_second;
    for (size_t i = 0; i < recorded.uses.size(); ++i) {
      const Shape& a = recorded.uses[i]->output_shape;
      const Shape& b = other.uses[i]->output_shape;
      const bool second = a.size() > 2 && b.size() == a.size() && a[0] == b[0] &&
                          a[1] == num_examples && b[1] == other_examples;
      for (const ParameterArgument& argument : recorded.uses[i]->parameters) {
        const auto [known, is_new] = is_second.insert({argument.parameter, second});
        if (!is_new && known->second != second) {
          plan_.uncovered.insert(
              {argument.parameter, "its uses have the examples on unequal axes"});
        }
      }
    }
    for (const auto& [parameter, second] : is_second) {
      if (second) plan_.sequence_first.insert(parameter);
    }
  }

  void find_unused(const std::set<size_t>& used) {
    const auto& names = risk_.unused_parameters();
    for (size_t i = 0; i < risk_.parameters().size(); ++i) {
      const std::string& name = risk_.space().entries()[i].name;
      if (std::find(names.begin(), names.end(), name) != names.end()) {
        plan_.unused.push_back(i);
      } else if (!used.count(i)) {
        plan_.uncovered.insert({i, "no operation was seen to use it"});
      }
    }
  }

  void add(const LayerPart& part) {
    const auto found =
        std::find_if(plan_.blocks.begin(), plan_.blocks.end(),
                     [&](const LayerBlock& block) { return same_block(block, part); });
    if (found == plan_.blocks.end()) {
      check_roles(part);
      plan_.blocks.push_back(block_of(part, risk_.space()));
      // Averages of one-hot inputs are dense.
      plan_.blocks.back().one_hot =
          part.indices != nullptr && options_.weight_sharing == WeightSharing::kExpand;
      return;
    }
    const LayerBlock block = block_of(part, risk_.space());
    if (block.rows != found->rows || block.weight_columns != found->weight_columns) {
      refuse_roles(*found, part);
      return;
    }
    if (!part.bias || found->bias == part.bias) return;
    if (found->bias) {
      plan_.uncovered.insert({*part.bias, "its weight is used with another bias as well"});
    } else {
      found->bias = part.bias;
    }
  }

  void refuse_roles(const LayerBlock& block, const LayerPart& part) {
    plan_.uncovered.insert(
        {part.weight ? *part.weight : *part.bias,
         fmt::format(
             "it is used in two ways ({} and {}), as a matrix and as its transpose or scale",
             block.kind, part.kind)});
  }

  /// A weight whose uses are matrices of different kinds (a table that is looked up and multiplied)
  /// is not one Kronecker product.
  void check_roles(const LayerPart& part) {
    if (!part.weight) return;
    for (const LayerBlock& block : plan_.blocks) {
      if (block.weight == part.weight && block.group == part.group) {
        refuse_roles(block, part);
      }
    }
  }

  /// A block with a parameter that is not covered goes; what else is in it is not covered then.
  void drop_uncovered() {
    for (bool changed = true; changed;) {
      changed = false;
      for (const LayerBlock& block : plan_.blocks) {
        const bool weight_bad = block.weight && plan_.uncovered.count(*block.weight);
        const bool bias_bad = block.bias && plan_.uncovered.count(*block.bias);
        if (weight_bad && block.bias && !bias_bad) {
          changed |=
              plan_.uncovered.insert({*block.bias, "its layer's weight is not covered"}).second;
        }
        if (bias_bad && block.weight && !weight_bad) {
          changed |=
              plan_.uncovered.insert({*block.weight, "its layer's bias is not covered"}).second;
        }
      }
    }
    std::erase_if(plan_.blocks, [this](const LayerBlock& block) {
      return (block.weight && plan_.uncovered.count(*block.weight)) ||
             (block.bias && plan_.uncovered.count(*block.bias));
    });
    claim_biases();
  }

  /// A bias that two blocks hold (tied, with different weights) is not covered.
  void claim_biases() {
    std::map<std::pair<size_t, int64_t>, int> owners;
    for (const LayerBlock& block : plan_.blocks) {
      if (block.bias) ++owners[{*block.bias, block.group}];
    }
    bool conflict = false;
    for (const auto& [key, count] : owners) {
      if (count > 1) {
        conflict |= plan_.uncovered.insert({key.first, "several layers share it"}).second;
      }
    }
    if (conflict) drop_uncovered();
  }

  const EmpiricalRisk& risk_;
  const KfacOptions& options_;
  LayerPlan plan_;
};

void leave_out(LayerPlan& plan, const LayerBlock& block, const std::string& reason) {
  if (block.weight) plan.uncovered.insert({*block.weight, reason});
  if (block.bias) plan.uncovered.insert({*block.bias, reason});
}

/// sum_ns g_ns a_ns^T of a block, `[m * columns, 1]`.
at::Tensor sum_of_gradients(const LayerPass& pass, const LayerBlock& block, size_t i,
                            const at::Tensor& gradients) {
  const at::Tensor g = gradients.flatten(0, 1);
  if (!block.one_hot) return g.t().matmul(pass.inputs(i).flatten(0, 1)).reshape({-1, 1});
  const at::Tensor indices = pass.indices(i).flatten();
  const at::Tensor kept = indices.ge(0).nonzero().squeeze(1);
  at::Tensor sum = at::zeros({block.weight_columns, block.rows}, g.options());
  sum.index_add_(0, indices.index_select(0, kept), g.index_select(0, kept));
  return sum.t().reshape({-1, 1});
}

/// Gradients of parameters as columns `[shape..., 1]`, zero where none arrived.
TensorList with_zeros(TensorList gradients, const TensorList& parameters) {
  for (size_t i = 0; i < gradients.size(); ++i) {
    if (!gradients[i].defined()) gradients[i] = at::zeros_like(parameters[i].detach());
    gradients[i] = gradients[i].unsqueeze(-1);
  }
  return gradients;
}

/// The gradient of the batch's loss must be what the uses say.
void check_gradients(const EmpiricalRisk& risk, const BatchRisk& batch, const LayerPass& pass,
                     LayerPlan& plan) {
  at::Tensor cotangent;
  {
    const c10::InferenceMode no_inference(false);
    const at::AutoGradMode with_gradients(true);
    const at::Tensor output = pass.output().requires_grad_();
    cotangent = torch::autograd::grad({batch.objective(output)}, {output}).front();
  }
  const at::NoGradGuard no_grad;
  const TensorList gradients = pass.backward(cotangent, risk.parameters());
  const TensorList at_parameters =
      with_zeros(TensorList(gradients.end() - static_cast<std::ptrdiff_t>(risk.parameters().size()),
                            gradients.end()),
                 risk.parameters());
  std::vector<double> norms, errors;
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    const at::Tensor expected = plan.blocks[i].gather(at_parameters);
    norms.push_back(expected.norm().item<double>());
    errors.push_back(
        pass.uses(i)
            ? (sum_of_gradients(pass, plan.blocks[i], i, pass.gradients(i, gradients)) - expected)
                  .norm()
                  .item<double>()
            : norms.back());
  }
  const double tolerance = risk.parameters().front().scalar_type() == at::kDouble ? 1e-8 : 1e-3;
  const double scale = norms.empty() ? 0 : *std::max_element(norms.begin(), norms.end());
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    if (errors[i] <= tolerance * (norms[i] + 1e-3 * scale)) continue;
    leave_out(plan, plan.blocks[i], "its gradient is not the one of the operations that were seen");
  }
}

/// Example number `index` of a batch, as a batch.
BatchRisk example_of(const EmpiricalRisk& risk, const BatchRisk& batch, int64_t index) {
  const Batch& whole = batch.batch();
  Batch example;
  for (const at::Tensor& input : whole.inputs) example.inputs.push_back(input.narrow(0, index, 1));
  if (whole.targets.defined()) example.targets = whole.targets.narrow(0, index, 1);
  if (whole.weights.defined()) example.weights = whole.weights.narrow(0, index, 1);
  return risk.on(std::move(example), batch.first_example() + index);
}

/// Another number of examples: the first of the batch, alone or, if it was alone, twice.
Batch other_batch(const Batch& batch) {
  const auto change = [count = batch.size()](const at::Tensor& x) {
    return !x.defined() ? x : count == 1 ? at::cat({x, x}) : x.narrow(0, 0, 1);
  };
  Batch other;
  for (const at::Tensor& input : batch.inputs) other.inputs.push_back(change(input));
  other.targets = change(batch.targets);
  other.weights = change(batch.weights);
  return other;
}

/// Positions of an example must not change with the number of examples beside it.
void check_positions(const LayerPass& batch, const LayerPass& other, LayerPlan& plan) {
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    if (batch.uses(i) && other.uses(i) && batch.num_positions(i) != other.num_positions(i)) {
      leave_out(plan, plan.blocks[i], "the examples of a batch share it before they meet it");
    }
  }
}

void drop_left_out(LayerPlan& plan) {
  std::erase_if(plan.blocks, [&plan](const LayerBlock& block) {
    return (block.weight && plan.uncovered.count(*block.weight)) ||
           (block.bias && plan.uncovered.count(*block.bias));
  });
}

LayerPlan plan_batches(const EmpiricalRisk& risk, const KfacOptions& options,
                       const BatchRisk& batch, const Recorded& recorded) {
  const BatchRisk other = risk.on(other_batch(batch.batch()), batch.first_example());
  const Recorded few = record(risk, other);
  LayerPlan plan =
      Planner(risk, options).plan(recorded, batch.batch().size(), few, other.batch().size());
  const bool separate = options.separate_bias;
  check_positions(LayerPass(risk, plan, batch, recorded, separate),
                  LayerPass(risk, plan, other, few, separate), plan);
  drop_left_out(plan);
  check_gradients(risk, other, LayerPass(risk, plan, other, few, separate), plan);
  drop_left_out(plan);
  return plan;
}

LayerPlan plan_examples(const EmpiricalRisk& risk, const KfacOptions& options,
                        const BatchRisk& example) {
  const Recorded recorded = record(risk, example);
  LayerPlan plan = Planner(risk, options).plan(recorded, 1, recorded, 1);
  check_gradients(risk, example, LayerPass(risk, plan, example, recorded, options.separate_bias),
                  plan);
  drop_left_out(plan);
  plan.examples_alone = true;
  return plan;
}

LayerPlan find_layers(const EmpiricalRisk& risk, const KfacOptions& options, const BatchRisk& batch,
                      const Recorded& recorded) {
  LayerPlan plan = plan_batches(risk, options, batch, recorded);
  if (plan.uncovered.empty()) return plan;
  LayerPlan alone = plan_examples(risk, options, example_of(risk, batch, 0));
  return alone.uncovered.size() < plan.uncovered.size() ? alone : plan;
}

}  // namespace

LayerPlan plan_layers(const EmpiricalRisk& risk, const KfacOptions& options) {
  return plan_layers(risk, options, risk.on(0));
}

LayerPlan plan_layers(const EmpiricalRisk& risk, const KfacOptions& options,
                      const BatchRisk& batch) {
  const std::string key = fmt::format("layers, bias {}, sharing {}", options.separate_bias,
                                      static_cast<int>(options.weight_sharing));
  return *risk.memo().get<LayerPlan>(
      key, [&] { return find_layers(risk, options, batch, record(risk, batch)); });
}

void for_each_batch(const EmpiricalRisk& risk, const Observer& observer, std::string_view task,
                    const std::function<void(const BatchRisk&)>& visit) {
  const int64_t num_batches = risk.data().num_batches();
  for (int64_t index = 0; index < num_batches; ++index) {
    visit(risk.on(index));
    if (observer) observer({task, index + 1, num_batches});
  }
}

void for_each_piece(const EmpiricalRisk& risk, const LayerPlan& plan, const BatchRisk& batch,
                    const std::function<void(const BatchRisk&)>& visit) {
  if (!plan.examples_alone) return visit(batch);
  for (int64_t n = 0; n < batch.batch().size(); ++n) visit(example_of(risk, batch, n));
}

}  // namespace curvature::detail
