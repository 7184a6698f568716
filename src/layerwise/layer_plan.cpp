#include "layerwise/layer_plan.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include "core/check.hpp"
#include "core/fast_kernels.hpp"
#include "layerwise/layer_pass.hpp"
#include "layerwise/probe.hpp"

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

namespace {

/// Whether the rows of one output are those of the other, perhaps with other leading axes.
bool same_rows(const OperationUse& a, const OperationUse& b) {
  return a.output_shape.back() == b.output_shape.back() &&
         c10::multiply_integers(a.output_shape) == c10::multiply_integers(b.output_shape);
}

}  // namespace

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
    if (plan.apart.count(*bias.bias) > 0) continue;
    for (size_t i = 0; i < j; ++i) {
      if (!(recorded.uses[i]->output == bias.adds_to) || matched[i].parts.size() != 1) continue;
      LayerPart& layer = matched[i].parts.front();
      if (!layer.takes_bias || layer.bias || !same_rows(*recorded.uses[i], *recorded.uses[j])) {
        continue;
      }
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
  Planner(const EmpiricalRisk& risk, const KfacOptions& options, std::set<size_t> apart)
      : risk_(risk), options_(options) {
    plan_.apart = std::move(apart);
  }

  /// `other` is the forward pass of another number of examples, by which and by whose probe their
  /// axis is recognised.
  LayerPlan plan(const Recorded& recorded, int64_t num_examples, const Recorded& other,
                 const Probe& probe) {
    find_example_axes(recorded, num_examples, other, probe);
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
    match(other, probe.num_examples());
    find_unused(used);
    for (const size_t parameter : mixed_) {
      plan_.uncovered.insert(
          {parameter, "the rows of its uses are not sorted by example, or examples share them"});
    }
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

  /// Where a parameter's uses may have the examples.
  struct Axes {
    bool first = true, second = true;
    bool looks_second = true;
  };

  /// The first axis of a sequence that comes first does not grow with the examples, the second
  /// does. Where gradients tell more, they decide: shapes do not show merged axes.
  void find_example_axes(const Recorded& recorded, int64_t num_examples, const Recorded& other,
                         const Probe& probe) {
    if (num_examples == probe.num_examples()) return;  // alone: all rows are its own
    const bool same_uses = recorded.uses.size() == other.uses.size();
    std::map<size_t, Axes> axes;
    for (size_t i = 0; i < other.uses.size(); ++i) {
      const Shape& b = other.uses[i]->output_shape;
      const Shape& a = same_uses ? recorded.uses[i]->output_shape : b;
      const bool second = same_uses && a.size() > 2 && b.size() == a.size() && a[0] == b[0] &&
                          a[1] == num_examples && b[1] == probe.num_examples();
      for (const ParameterArgument& argument : other.uses[i]->parameters) {
        Axes& known = axes[argument.parameter];
        known.looks_second = known.looks_second && second;
        known.first = known.first && probe.allows(i, false);
        known.second = known.second && probe.allows(i, true);
      }
    }
    for (const auto& [parameter, known] : axes) {
      if (known.second && (known.looks_second || !known.first)) {
        plan_.sequence_first.insert(parameter);
      } else if (!known.first) {
        mixed_.insert(parameter);
      }
    }
  }

  void find_unused(const std::set<size_t>& used) {
    const auto& names = risk_.unused_parameters();
    for (size_t i = 0; i < risk_.parameters().size(); ++i) {
      const std::string& name = risk_.space().entries()[i].name;
      const bool is_empty = risk_.parameters()[i].numel() == 0;
      if (is_empty || std::find(names.begin(), names.end(), name) != names.end()) {
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
      for (const auto& parameter : {found->weight, found->bias, part.bias}) {
        plan_.uncovered.insert(
            {*parameter, "its weight has several biases, which separate_bias covers"});
      }
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
        conflict |= plan_.uncovered
                        .insert({key.first, "several layers share it, which separate_bias covers"})
                        .second;
      }
    }
    if (conflict) drop_uncovered();
  }

  const EmpiricalRisk& risk_;
  const KfacOptions& options_;
  LayerPlan plan_;
  std::set<size_t> mixed_;  ///< parameters with rows that are not told apart by example
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

/// Biases of a block that its layer took over from an operation of their own.
std::set<size_t> joined_biases(const Recorded& recorded, const LayerPlan& plan,
                               const LayerBlock& block, int64_t num_examples) {
  std::set<size_t> joined;
  const std::vector<MatchedUse> matched = match_uses(plan, recorded, num_examples);
  for (size_t i = 0; i < matched.size(); ++i) {
    const size_t parameter = recorded.uses[i]->parameters.front().parameter;
    if (matched[i].joined && block.bias == parameter) joined.insert(parameter);
  }
  return joined;
}

/// The gradients of a pass must be what the uses say. Returns biases with which they are not, and
/// without which they may be; if there are none, blocks that fail are left out.
std::set<size_t> check_gradients(const Recorded& recorded, const Probe& probe,
                                 const LayerPass& pass, LayerPlan& plan) {
  const at::NoGradGuard no_grad;
  std::vector<double> norms, errors;
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    const at::Tensor expected = plan.blocks[i].gather(probe.at_parameters());
    norms.push_back(expected.norm().item<double>());
    if (!pass.uses(i)) {
      errors.push_back(norms.back());
      continue;
    }
    const at::Tensor g = pass.gradients(i, probe.at_uses());
    const at::Tensor sum = sum_of_gradients(pass, plan.blocks[i], i, g);
    errors.push_back((sum - expected).norm().item<double>());
  }
  const double tolerance = rule_tolerance(pass.output().scalar_type());
  const double scale = norms.empty() ? 0 : *std::max_element(norms.begin(), norms.end());
  std::set<size_t> joined;
  std::vector<const LayerBlock*> failed;
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    if (errors[i] <= tolerance * (norms[i] + 1e-3 * scale)) continue;
    failed.push_back(&plan.blocks[i]);
    joined.merge(joined_biases(recorded, plan, plan.blocks[i], probe.num_examples()));
  }
  if (!joined.empty()) return joined;
  for (const LayerBlock* block : failed) {
    leave_out(plan, *block, "its gradient is not the one of the operations that were seen");
  }
  return {};
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

/// Three examples from all over a batch (one sorted by length has unlike ones there), or two:
/// another number of them than the batch has.
Batch other_batch(const Batch& batch) {
  const int64_t last = batch.size() - 1, first = 0;
  const bool two = last == 0 || last == 2;
  const at::Tensor numbers = two ? at::tensor({first, last}) : at::tensor({first, last / 2, last});
  const auto change = [&](const at::Tensor& x) {
    return x.defined() ? x.index_select(0, numbers.to(x.device(), at::kLong)) : x;
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

/// Plans again without the biases that `check` returns, until it returns none.
template <class Check>
LayerPlan plan_until(const EmpiricalRisk& risk, const KfacOptions& options, const Check& check) {
  std::set<size_t> apart;
  for (;;) {
    auto [plan, wrong] = check(Planner(risk, options, apart));
    if (wrong.empty()) {
      drop_left_out(plan);
      return std::move(plan);
    }
    apart.merge(wrong);
  }
}

LayerPlan plan_batches(const EmpiricalRisk& risk, const KfacOptions& options,
                       const BatchRisk& batch, const Recorded& recorded) {
  const BatchRisk other = risk.on(other_batch(batch.batch()), batch.first_example());
  const Recorded few = record(risk, other);
  const Probe probe(few, other.batch().size(), risk.parameters());
  const bool separate = options.separate_bias;
  return plan_until(risk, options, [&](Planner planner) {
    LayerPlan plan = planner.plan(recorded, batch.batch().size(), few, probe);
    check_positions(LayerPass(risk, plan, batch, recorded, separate),
                    LayerPass(risk, plan, other, few, separate), plan);
    drop_left_out(plan);
    const LayerPass pass(risk, plan, other, few, separate);
    std::set<size_t> wrong = check_gradients(few, probe, pass, plan);
    return std::pair(std::move(plan), std::move(wrong));
  });
}

LayerPlan plan_examples(const EmpiricalRisk& risk, const KfacOptions& options,
                        const BatchRisk& example) {
  const Recorded recorded = record(risk, example);
  const Probe probe(recorded, 1, risk.parameters());
  LayerPlan plan = plan_until(risk, options, [&](Planner planner) {
    LayerPlan attempt = planner.plan(recorded, 1, recorded, probe);
    const LayerPass pass(risk, attempt, example, recorded, options.separate_bias);
    std::set<size_t> wrong = check_gradients(recorded, probe, pass, attempt);
    return std::pair(std::move(attempt), std::move(wrong));
  });
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
