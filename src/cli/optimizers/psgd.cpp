#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/optim/psgd_newton.hpp>

#include "cli/optimizers/families.hpp"
#include "cli/optimizers/shell.hpp"
#include "cli/optimizers/words.hpp"

namespace curvature::cli {
namespace {

using optim::Averaging;
using optim::PsgdGeometry;

const Words<PsgdGeometry> kGeometries = {{"q0.5eq1.5", PsgdGeometry::kQHalfEq},
                                         {"quad", PsgdGeometry::kQuad},
                                         {"qeq", PsgdGeometry::kQeq},
                                         {"eq", PsgdGeometry::kEq}};

OptimizerOptions rate_options() {
  return {number_option("preconditioner_rate", 0.1, "step size of the preconditioner"),
          number_option("lipschitz_decay", 0.9, "of the bound that it is divided by"),
          integer_option("refresh_interval", 1, "steps between updates of the preconditioner"),
          number_option("noise", 0, "bounds the preconditioner where gradients vanish")};
}

OptimizerOption geometry_option() {
  return choice("geometry", kGeometries, "how a matrix of the preconditioner moves");
}
OptimizerOption skew_option() {
  return number_option("max_skew", 1, "axes with d^2 above this times D are diagonal");
}
OptimizerOption size_option() {
  return integer_option("max_size", 4096, "of what has one matrix; larger ones are refused");
}
OptimizerOption rank_option() { return integer_option("rank", 10, "of the root's low-rank part"); }

optim::PsgdKronOptions kron_options(const OptionValues& values, const OptimizerContext& context) {
  return {.preconditioner_rate = values.number("preconditioner_rate"),
          .lipschitz_decay = values.number("lipschitz_decay"),
          .max_skew = values.number("max_skew"),
          .geometry = chosen(values, "geometry", kGeometries),
          .refresh_interval = values.integer("refresh_interval"),
          .noise = values.number("noise"),
          .seed = context.random.seed()};
}

optim::PsgdDenseOptions dense_options(const OptionValues& values, const OptimizerContext& context) {
  return {.preconditioner_rate = values.number("preconditioner_rate"),
          .lipschitz_decay = values.number("lipschitz_decay"),
          .geometry = chosen(values, "geometry", kGeometries),
          .max_size = values.integer("max_size"),
          .refresh_interval = values.integer("refresh_interval"),
          .noise = values.number("noise"),
          .seed = context.random.seed()};
}

optim::PsgdLraOptions lra_options(const OptionValues& values, const OptimizerContext& context) {
  return {.rank = values.integer("rank"),
          .preconditioner_rate = values.number("preconditioner_rate"),
          .lipschitz_decay = values.number("lipschitz_decay"),
          .refresh_interval = values.integer("refresh_interval"),
          .noise = values.number("noise"),
          .seed = context.random.seed()};
}

/// A form that whitens gradients, with the update rule of the published program.
OptimizerEntry whitening(
    const std::string& name, const std::string& description, const OptimizerOptions& options,
    std::function<optim::EstimatorFactory(const OptionValues&, const OptimizerContext&)>
        estimator) {
  OptimizerOptions steps = with_default(step_options(), "clip_rms", "2");
  steps = with_default(std::move(steps), "clip_max", "10");
  return shell_entry(
      name, description,
      joined({steps,
              matrix_options(),
              rate_options(),
              {number_option("momentum", 0.9, "largest weight of earlier gradients")},
              options}),
      std::move(estimator), [](optim::PreconditionedOptions& shell, const OptionValues& values) {
        set_matrix_momentum(
            shell, {.beta = values.number("momentum"), .averaging = Averaging::kRunningMean});
      });
}

OptimizerEntry newton() {
  const auto make = [](const EmpiricalRisk& risk, const OptionValues& values,
                       const OptimizerContext& context) {
    const MatrixFreeOptions products = {.memory_budget = context.memory_budget};
    const bool is_ggn = values.word("curvature") == "ggn";
    optim::PsgdNewtonOptions options{.learning_rate = values.number("learning_rate"),
                                     .momentum = values.number("momentum"),
                                     .max_norm = values.number("clip_norm"),
                                     .joint = values.flag("joint"),
                                     .curvature =
                                         [products, is_ggn](const EmpiricalRisk& batch) {
                                           return is_ggn ? ggn(batch, products)
                                                         : hessian(batch, products);
                                         },
                                     .random = context.random};
    if (values.word("form") == "kron") options.form = kron_options(values, context);
    if (values.word("form") == "dense") options.form = dense_options(values, context);
    if (values.word("form") == "lra") options.form = lra_options(values, context);
    return optim::psgd_newton(risk, options);
  };
  return {.name = "psgd-newton",
          .description = "PSGD fitted to products with the Hessian: the inverse of its modulus",
          .options = joined(
              {{number_option("learning_rate", 0.01, "what directions are multiplied by"),
                number_option("momentum", 0.9, "largest weight of earlier gradients"),
                number_option("clip_norm", 0, "bound on the norm of a direction; 0: none"),
                choice_option("form", {"kron", "lra", "dense"}, "of the preconditioner"),
                flag_option("joint", true, "lra and dense see all parameters as one vector")},
               rate_options(),
               {geometry_option(), skew_option(), size_option(), rank_option(),
                choice_option("curvature", {"hessian", "ggn"}, "whose products are taken"),
                number_option("weight_decay", 0,
                              "half of it times the squared norm is added to the loss")}}),
          .from_risk = make};
}

}  // namespace

std::vector<OptimizerEntry> psgd_optimizers() {
  return {whitening("psgd-kron",
                    "whitening by gradient descent on a group of matrices; no decomposition",
                    {skew_option(), geometry_option()},
                    [](const OptionValues& values, const OptimizerContext& context) {
                      return optim::psgd_kron_estimator(kron_options(values, context));
                    }),
          whitening("psgd-lra", "the same with a diagonal and a low-rank part for each parameter",
                    {rank_option()},
                    [](const OptionValues& values, const OptimizerContext& context) {
                      return optim::psgd_lra_estimator(lra_options(values, context));
                    }),
          whitening("psgd-dense", "the same with one matrix for each parameter, for small ones",
                    {size_option(), geometry_option()},
                    [](const OptionValues& values, const OptimizerContext& context) {
                      return optim::psgd_dense_estimator(dense_options(values, context));
                    }),
          newton()};
}

}  // namespace curvature::cli
