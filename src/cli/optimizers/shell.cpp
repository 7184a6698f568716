#include "cli/optimizers/shell.hpp"

#include <utility>

#include "cli/optimizers/words.hpp"

namespace curvature::cli {
namespace {

using optim::Graft;
using optim::Iterates;
using optim::ShapePolicy;
using optim::VectorPolicy;
using optim::WeightDecay;

const Words<WeightDecay> kDecays = {{"before", WeightDecay::kDecoupled},
                                    {"after", WeightDecay::kDecoupledAfter},
                                    {"independent", WeightDecay::kIndependent},
                                    {"gradient", WeightDecay::kGradient},
                                    {"direction", WeightDecay::kDirection}};
const Words<Iterates> kIterates = {{"last", Iterates::kLast},
                                   {"average", Iterates::kAverage},
                                   {"schedule-free", Iterates::kScheduleFree}};
const Words<ShapePolicy> kShapes = {{"matrix", ShapePolicy::kMatrix},
                                    {"spatial", ShapePolicy::kSpatial},
                                    {"tensor", ShapePolicy::kTensor}};
const Words<VectorPolicy> kVectors = {{"fallback", VectorPolicy::kFallback},
                                      {"full", VectorPolicy::kFull}};
const Words<Graft> kGrafts = {{"none", Graft::kNone},
                              {"sgd", Graft::kSgd},
                              {"adam", Graft::kAdam},
                              {"rmsprop", Graft::kRmsProp},
                              {"unit-rms", Graft::kUnitRms}};

template <class Enum>
void read(const OptionValues& values, const std::string& name, const Words<Enum>& table,
          Enum& value) {
  if (values.has(name)) value = chosen(values, name, table);
}

void read(const OptionValues& values, const std::string& name, double& value) {
  if (values.has(name)) value = values.number(name);
}

void read(const OptionValues& values, const std::string& name, int64_t& value) {
  if (values.has(name)) value = values.integer(name);
}

void read(const OptionValues& values, const std::string& name, bool& value) {
  if (values.has(name)) value = values.flag(name);
}

}  // namespace

OptimizerOptions joined(const std::vector<OptimizerOptions>& lists) {
  OptimizerOptions all;
  for (const OptimizerOptions& list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

OptimizerOptions with_default(OptimizerOptions options, const std::string& name,
                              const std::string& value) {
  for (OptimizerOption& option : options) {
    if (option.name == name) option.default_value = value;
  }
  return options;
}

OptimizerOptions without(OptimizerOptions options, const std::string& name) {
  std::erase_if(options, [&](const OptimizerOption& option) { return option.name == name; });
  return options;
}

OptimizerOptions step_options(double learning_rate) {
  return {
      number_option("learning_rate", learning_rate, "what directions are multiplied by"),
      number_option("weight_decay", 0, "pulls parameters to zero"),
      choice("decay", kDecays,
             "where it acts: on parameters before or after the step (times the learning rate, or "
             "independent of it), or added to the gradient or to the direction"),
      number_option("clip_gradient_norm", 0,
                    "bound on the norm of all gradients together; 0: none"),
      number_option("clip_norm", 0, "bound on the norm of a parameter's direction; 0: none"),
      number_option("clip_rms", 0, "bound on its root mean square; 0: none"),
      number_option("clip_max", 0, "bound on its entries; 0: none"),
      choice("iterates", kIterates, "what is validated and written at the end"),
      number_option("average_decay", 0.999, "of the average of iterates"),
      number_option("interpolation", 0.9, "of schedule-free"),
  };
}

OptimizerOptions moment_options(const MomentDefaults& defaults) {
  return {
      number_option("beta1", defaults.beta1, "decay of the momentum"),
      number_option("beta2", defaults.beta2, "decay of second moments"),
      number_option("epsilon", defaults.epsilon, "added to the root of second moments"),
      flag_option("bias_correction", true, "the momentum is divided by 1 - beta1^t"),
  };
}

OptimizerOptions matrix_options() {
  return {
      choice("shape_policy", kShapes,
             "the first axis against all others, axes 3 and later as one, or each axis"),
      choice("vector_policy", kVectors, "vectors: AdamW, or a matrix of their own"),
      integer_option("block_size", 0, "longer axes are cut into blocks; 0: none"),
      integer_option("max_dense", 8192, "longer axes get a diagonal instead of a matrix"),
      choice("grafting", kGrafts, "where the length of a direction comes from"),
      number_option("graft_epsilon", 1e-8, "added to the root in it"),
  };
}

optim::PreconditionedOptions preconditioned_options(const OptionValues& values,
                                                    const OptimizerContext& context) {
  optim::PreconditionedOptions options;
  read(values, "learning_rate", options.learning_rate);
  read(values, "weight_decay", options.weight_decay.decay);
  read(values, "decay", kDecays, options.weight_decay.kind);
  read(values, "clip_gradient_norm", options.clip.gradient_norm);
  read(values, "clip_norm", options.clip.norm);
  read(values, "clip_rms", options.clip.rms);
  read(values, "clip_max", options.clip.entry);
  read(values, "iterates", kIterates, options.iterates.kind);
  read(values, "average_decay", options.iterates.decay);
  read(values, "interpolation", options.iterates.interpolation);
  read(values, "beta1", options.momentum.beta);
  read(values, "bias_correction", options.momentum.bias_correction);
  read(values, "shape_policy", kShapes, options.view.shape);
  read(values, "vector_policy", kVectors, options.view.vectors);
  read(values, "block_size", options.view.block_size);
  read(values, "max_dense", options.view.max_dense);
  read(values, "grafting", kGrafts, options.graft.kind);
  read(values, "graft_epsilon", options.graft.epsilon);
  read(values, "start", options.graft.start);
  read(values, "beta2", options.graft.beta2);
  optim::AdamEstimatorOptions fallback;
  read(values, "beta2", fallback.beta2);
  read(values, "epsilon", fallback.epsilon);
  options.fallback = optim::adam_estimator(fallback);
  options.warn = context.warn;
  return options;
}

void set_matrix_momentum(optim::PreconditionedOptions& options,
                         const optim::MomentumOptions& momentum) {
  options.momentum = momentum;
  options.fallback_momentum = optim::MomentumOptions();
}

OptimizerEntry shell_entry(
    std::string name, std::string description, OptimizerOptions options,
    std::function<optim::EstimatorFactory(const OptionValues&, const OptimizerContext&)> estimator,
    std::function<void(optim::PreconditionedOptions&, const OptionValues&)> adjust) {
  return {.name = std::move(name),
          .description = std::move(description),
          .options = std::move(options),
          .from_gradients = [estimator = std::move(estimator), adjust = std::move(adjust)](
                                std::vector<NamedTensor> parameters, const OptionValues& values,
                                const OptimizerContext& context) {
            optim::PreconditionedOptions shell = preconditioned_options(values, context);
            if (adjust) adjust(shell, values);
            return std::make_unique<optim::Preconditioned>(
                std::move(parameters), estimator(values, context), std::move(shell));
          }};
}

}  // namespace curvature::cli
