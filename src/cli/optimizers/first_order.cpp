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

}  // namespace

std::vector<OptimizerEntry> first_order_optimizers() { return {sgd(), adamw()}; }

}  // namespace curvature::cli
