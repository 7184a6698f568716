#pragma once

#include <string>
#include <vector>

#include "cli/optimizers/optimizer_entry.hpp"

namespace curvature::cli {

using OptimizerOptions = std::vector<OptimizerOption>;

/// One list after the other.
OptimizerOptions joined(const std::vector<OptimizerOptions>& lists);

/// A list with another default for one of its options.
OptimizerOptions with_default(OptimizerOptions options, const std::string& name,
                              const std::string& value);
/// A list without one of its options.
OptimizerOptions without(OptimizerOptions options, const std::string& name);

/// Of every optimizer whose steps are `optim::Preconditioned`: `learning_rate`, `weight_decay`,
/// `decay`, clipping, averages of the iterates.
OptimizerOptions step_options(double learning_rate = 1e-3);

/// Defaults of `moment_options`.
struct MomentDefaults {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
};
/// Of those with the momentum and second moment of the shared shell: `beta1`, `beta2`, `epsilon`,
/// `bias_correction`.
OptimizerOptions moment_options(const MomentDefaults& defaults = {});

/// Of those with a matrix for each axis of a parameter: `shape_policy`, `vector_policy`,
/// `block_size`, `max_dense`, `grafting`, `graft_epsilon`.
OptimizerOptions matrix_options();

/// The library's options from whichever of all these (and `start`, of the graft) there are. The
/// fallback is AdamW with the same `beta2` and `epsilon`.
optim::PreconditionedOptions preconditioned_options(const OptionValues& values,
                                                    const OptimizerContext& context);

/// Gives matrices this momentum; vectors are AdamW's whatever it is.
void set_matrix_momentum(optim::PreconditionedOptions& options,
                         const optim::MomentumOptions& momentum);

/// An optimizer with an estimator of its own in the shared shell. `adjust` is for what the shell's
/// options do not say.
OptimizerEntry shell_entry(
    std::string name, std::string description, OptimizerOptions options,
    std::function<optim::EstimatorFactory(const OptionValues&, const OptimizerContext&)> estimator,
    std::function<void(optim::PreconditionedOptions&, const OptionValues&)> adjust = {});

}  // namespace curvature::cli
