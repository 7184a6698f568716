#include <curvature/optim/muon_estimator.hpp>
#include <curvature/optim/sirf_estimator.hpp>
#include <curvature/optim/spectral_factorized_estimator.hpp>

#include "cli/optimizers/families.hpp"
#include "cli/optimizers/shell.hpp"
#include "cli/optimizers/words.hpp"

namespace curvature::cli {
namespace {

using optim::Averaging;

OptimizerOption refresh_option() {
  return integer_option("refresh_interval", 1, "steps between updates of the factors");
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
        set_matrix_momentum(options, {.beta = values.number("alpha1"),
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
              {choice_option("vector_policy", {"fallback"}, "vectors: AdamW"),
               number_option("momentum", 0.95, "weight of earlier gradients"),
               flag_option("bias_correction", false, "the momentum is divided by 1 - momentum^t"),
               flag_option("nesterov", true, "the newest gradient counts once more"),
               integer_option("steps", 5, "of Newton-Schulz"),
               choice("products", kDtypes, "dtype of the steps")}}),
      [](const OptionValues& values, const OptimizerContext&) {
        return optim::muon_estimator(
            {.steps = values.integer("steps"), .products = chosen(values, "products", kDtypes)});
      },
      [](optim::PreconditionedOptions& options, const OptionValues& values) {
        set_matrix_momentum(options, {.beta = values.number("momentum"),
                                      .nesterov = values.flag("nesterov"),
                                      .bias_correction = values.flag("bias_correction")});
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
  return {sirf_shampoo(), muon(), spectral_factorized()};
}

}  // namespace curvature::cli
