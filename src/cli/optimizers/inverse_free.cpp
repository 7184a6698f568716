#include <curvature/optim/muon_estimator.hpp>
#include <curvature/optim/psgd_kron_estimator.hpp>
#include <curvature/optim/sirf_estimator.hpp>
#include <curvature/optim/spectral_factorized_estimator.hpp>

#include "cli/optimizers/families.hpp"
#include "cli/optimizers/shell.hpp"
#include "cli/optimizers/words.hpp"

namespace curvature::cli {
namespace {

using optim::Averaging;

/// Step options with another default for one of them.
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

OptimizerOption refresh_option() {
  return integer_option("refresh_interval", 1, "steps between updates of the factors");
}

/// Vectors are AdamW's whatever the momentum of the matrices.
void set_momentum(optim::PreconditionedOptions& options, const optim::MomentumOptions& momentum) {
  options.momentum = momentum;
  options.fallback_momentum = optim::MomentumOptions();
}

const Words<optim::PsgdGeometry> kGeometries = {{"q0.5eq1.5", optim::PsgdGeometry::kQHalfEq},
                                                {"quad", optim::PsgdGeometry::kQuad},
                                                {"qeq", optim::PsgdGeometry::kQeq}};

OptimizerEntry psgd_kron() {
  OptimizerOptions steps = with_default(step_options(), "clip_rms", "2");
  steps = with_default(std::move(steps), "clip_max", "10");
  return shell_entry(
      "psgd-kron", "whitening by gradient descent on a group of matrices; no decomposition",
      joined({steps,
              matrix_options(),
              {number_option("preconditioner_rate", 0.1, "step size of the factors"),
               number_option("lipschitz_decay", 0.9, "of the bound that it is divided by"),
               number_option("momentum", 0.9, "largest weight of earlier gradients"),
               number_option("max_skew", 1, "axes with d^2 above this times D are diagonal"),
               choice("geometry", kGeometries, "how a factor moves"), refresh_option()}}),
      [](const OptionValues& values, const OptimizerContext&) {
        return optim::psgd_kron_estimator(
            {.preconditioner_rate = values.number("preconditioner_rate"),
             .lipschitz_decay = values.number("lipschitz_decay"),
             .max_skew = values.number("max_skew"),
             .geometry = chosen(values, "geometry", kGeometries),
             .refresh_interval = values.integer("refresh_interval")});
      },
      [](optim::PreconditionedOptions& options, const OptionValues& values) {
        set_momentum(options,
                     {.beta = values.number("momentum"), .averaging = Averaging::kRunningMean});
      });
}

OptimizerEntry sirf_shampoo() {
  return shell_entry(
      "sirf-shampoo", "Shampoo without roots and inverses, for gradients of a mean loss",
      joined({without(step_options(), "decay"),
              matrix_options(),
              {number_option("preconditioner_rate", 0.01, "step size of the factors"),
               number_option("alpha1", 0.9, "weight of earlier directions"),
               number_option("alpha2", 0.5, "decay of the factors' own directions"),
               number_option("damping", 1e-3, "added to the curvature"),
               integer_option("batch_size", 1, "examples in the mean"), refresh_option(),
               choice("structure", kStructures, "of the factors")}}),
      [](const OptionValues& values, const OptimizerContext&) {
        return optim::sirf_estimator(
            {.batch_size = values.integer("batch_size"),
             .preconditioner_rate = values.number("preconditioner_rate"),
             .alpha2 = values.number("alpha2"),
             .damping = values.number("damping"),
             .refresh_interval = values.integer("refresh_interval"),
             .structure = {.kind = chosen(values, "structure", kStructures)}});
      },
      [](optim::PreconditionedOptions& options, const OptionValues& values) {
        set_momentum(options, {.beta = values.number("alpha1"),
                               .averaging = Averaging::kHeavyBall,
                               .place = optim::MomentumPlace::kAfter});
        options.weight_decay.kind = optim::WeightDecay::kDirection;
      });
}

OptimizerEntry muon() {
  return shell_entry(
      "muon", "the polar factor of the momentum, by Newton-Schulz steps; matrices only",
      joined({step_options(0.02),
              without(matrix_options(), "vector_policy"),
              {number_option("momentum", 0.95, "weight of earlier gradients"),
               flag_option("nesterov", true, "the newest gradient counts once more"),
               integer_option("steps", 5, "of Newton-Schulz")}}),
      [](const OptionValues& values, const OptimizerContext&) {
        return optim::muon_estimator({.steps = values.integer("steps")});
      },
      [](optim::PreconditionedOptions& options, const OptionValues& values) {
        set_momentum(options, {.beta = values.number("momentum"),
                               .nesterov = values.flag("nesterov"),
                               .bias_correction = false});
      });
}

OptimizerEntry spectral_factorized() {
  return shell_entry(
      "spectral-factorized", "KL-Shampoo kept as eigenvalues and rotations; no decomposition",
      joined({step_options(),
              moment_options(),
              matrix_options(),
              {number_option("gap_tolerance", 1e-6,
                             "eigenvectors of closer eigenvalues are not turned to each other"),
               number_option("max_rotation", 0.5, "bound of a rotation"),
               number_option("root", 2, "directions are the power -1/root"), refresh_option()}}),
      [](const OptionValues& values, const OptimizerContext&) {
        return optim::spectral_factorized_estimator(
            {.beta2 = values.number("beta2"),
             .root = values.number("root"),
             .epsilon = values.number("epsilon"),
             .gap_tolerance = values.number("gap_tolerance"),
             .max_rotation = values.number("max_rotation"),
             .refresh_interval = values.integer("refresh_interval")});
      });
}

}  // namespace

std::vector<OptimizerEntry> inverse_free_optimizers() {
  return {sirf_shampoo(), psgd_kron(), muon(), spectral_factorized()};
}

}  // namespace curvature::cli
