#include "cli/optimizers/families.hpp"
#include "cli/optimizers/shell.hpp"

namespace curvature::cli {
namespace {

OptimizerEntry sgd() {
  return shell_entry(
      "sgd", "gradient descent with momentum: M <- momentum M + G",
      joined({step_options(),
              {number_option("momentum", 0, "weight of earlier gradients"),
               flag_option("nesterov", false, "the newest gradient counts once more")}}),
      [](const OptionValues&, const OptimizerContext&) { return optim::identity_estimator(); },
      [](optim::PreconditionedOptions& options, const OptionValues& values) {
        options.momentum = {.beta = values.number("momentum"),
                            .averaging = optim::Averaging::kHeavyBall,
                            .nesterov = values.flag("nesterov")};
        // Vectors and scalars as everything else.
        options.fallback = optim::identity_estimator();
      });
}

OptimizerEntry adamw() {
  return shell_entry("adamw", "Adam with decoupled weight decay",
                     joined({step_options(), moment_options()}),
                     [](const OptionValues& values, const OptimizerContext&) {
                       return optim::adam_estimator(
                           {.beta2 = values.number("beta2"), .epsilon = values.number("epsilon")});
                     });
}

/// Adam without its root, for gradients of a mean over a batch.
optim::EstimatorFactory root_free(const OptionValues& values) {
  optim::AdamEstimatorOptions options = optim::root_free_adam_options(values.integer("batch_size"));
  options.beta2 = values.number("beta2");
  options.epsilon = values.number("epsilon");
  return optim::adam_estimator(options);
}

OptimizerOptions root_free_options() {
  return {
      number_option("beta1", 0.9, "weight of earlier gradients or directions"),
      number_option("beta2", 0.99, "decay of the second moment, which is 1/batch_size at first"),
      number_option("epsilon", 1e-5, "added to batch_size times the second moment"),
      integer_option("batch_size", 1, "examples in the mean")};
}

OptimizerEntry root_free_adamw() {
  return shell_entry(
      "rf-adamw", "AdamW without the root: a diagonal of the Fisher matrix for gradients of a mean",
      joined({step_options(), root_free_options()}),
      [](const OptionValues& values, const OptimizerContext&) { return root_free(values); },
      [](optim::PreconditionedOptions& options, const OptionValues& values) {
        options.momentum.bias_correction = false;
        options.fallback = root_free(values);
      });
}

OptimizerEntry root_free_rmsprop() {
  return shell_entry(
      "rf-rmsprop", "RMSProp without the root: directions and weight decay are summed",
      joined({without(step_options(), "decay"), root_free_options()}),
      [](const OptionValues& values, const OptimizerContext&) { return root_free(values); },
      [](optim::PreconditionedOptions& options, const OptionValues& values) {
        options.momentum = {.beta = values.number("beta1"),
                            .averaging = optim::Averaging::kHeavyBall,
                            .place = optim::MomentumPlace::kAfter};
        options.weight_decay.kind = optim::WeightDecay::kDirection;
        options.fallback = root_free(values);
      });
}

}  // namespace

std::vector<OptimizerEntry> first_order_optimizers() {
  return {sgd(), adamw(), root_free_adamw(), root_free_rmsprop()};
}

}  // namespace curvature::cli
