#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/optim/natural_gradient.hpp>
#include <curvature/optim/newton.hpp>
#include <curvature/optim/singd.hpp>
#include <curvature/optim/variational.hpp>

#include "cli/optimizers/families.hpp"
#include "cli/optimizers/shell.hpp"
#include "cli/optimizers/words.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

using optim::DampingRule;
using optim::FisherApproximation;
using optim::StepSize;

const Words<Fisher> kFishers = {{"mc", Fisher::kMonteCarlo},
                                {"type-2", Fisher::kType2},
                                {"empirical", Fisher::kEmpirical},
                                {"forward-only", Fisher::kForwardOnly}};
const Words<WeightSharing> kSharings = {{"expand", WeightSharing::kExpand},
                                        {"reduce", WeightSharing::kReduce}};
const Words<Fallback> kFallbacks = {
    {"refuse", Fallback::kRefuse}, {"diagonal", Fallback::kDiagonal}, {"block", Fallback::kBlock}};
const Words<KroneckerDamping> kDampingKinds = {
    {"exact", KroneckerDamping::kExact},
    {"per-factor", KroneckerDamping::kPerFactor},
    {"heuristic-pi", KroneckerDamping::kHeuristicPi},
    {"kullback-leibler", KroneckerDamping::kKullbackLeibler}};
const Words<StepSize> kStepSizes = {{"norm-constraint", StepSize::kNormConstraint},
                                    {"fixed", StepSize::kFixed},
                                    {"trust-region", StepSize::kTrustRegion},
                                    {"quadratic-model", StepSize::kQuadraticModel}};
const Words<DampingRule> kJudged = {{"constant", DampingRule::kConstant},
                                    {"levenberg-marquardt", DampingRule::kLevenbergMarquardt},
                                    {"nielsen", DampingRule::kNielsen}};
const Words<DampingRule> kGradientRules = {
    {"gradient-normalized", DampingRule::kGradientNormalized},
    {"adaptive-newton", DampingRule::kAdaptiveNewton},
    {"super-universal", DampingRule::kSuperUniversal}};

const Words<optim::RateBound> kRateBounds = {{"frobenius", optim::RateBound::kFrobenius},
                                             {"largest-entry", optim::RateBound::kLargestEntry},
                                             {"none", optim::RateBound::kNone}};
const Words<std::optional<at::ScalarType>> kStateTypes = {{"parameters", std::nullopt},
                                                          {"float32", at::kFloat},
                                                          {"float64", at::kDouble},
                                                          {"bfloat16", at::kBFloat16}};

using Maker = std::function<std::unique_ptr<optim::Minimizer>(
    const EmpiricalRisk&, const OptionValues&, const OptimizerContext&)>;

OptimizerEntry entry(std::string name, std::string description, OptimizerOptions options,
                     Maker maker) {
  options.push_back(
      number_option("weight_decay", 0, "half of it times the squared norm is added to the loss"));
  return {.name = std::move(name),
          .description = std::move(description),
          .options = std::move(options),
          .from_risk = std::move(maker)};
}

/// The curvature of a quadratic model: `ggn` or `hessian`, in either order.
OptimizerOption curvature_option(const std::string& first) {
  return first == "ggn" ? choice_option("curvature", {"ggn", "hessian"}, "of the quadratic model")
                        : choice_option("curvature", {"hessian", "ggn"}, "of the quadratic model");
}

optim::CurvatureFunction curvature_of(const OptionValues& values, const OptimizerContext& context) {
  const MatrixFreeOptions options = {.memory_budget = context.memory_budget};
  if (values.word("curvature") == "ggn") {
    return [options](const EmpiricalRisk& batch) { return ggn(batch, options); };
  }
  return [options](const EmpiricalRisk& batch) { return hessian(batch, options); };
}

OptimizerOptions newton_options() {
  return {number_option("learning_rate", 1, "part of the model's step that is taken"),
          integer_option("max_cg_iterations", 250, "of a step")};
}

OptimizerOptions layer_options() {
  return {choice("fisher", kFishers, "which vectors are backpropagated"),
          choice("weight_sharing", kSharings, "positions count alone, or are summed"),
          choice("fallback", kFallbacks, "for parameters that no layer rule covers"),
          integer_option("refresh_interval", 10, "steps between inverses"),
          integer_option("statistics_interval", 1, "steps between updates of the statistics"),
          number_option("statistics_decay", 0.95, "of earlier statistics")};
}

/// Of every natural gradient.
OptimizerOptions natural_gradient_options() {
  return {number_option("learning_rate", 0.1, "what directions are multiplied by"),
          number_option("momentum", 0.9, "of the last update"),
          number_option("damping", 1e-3, "added to the curvature"),
          flag_option("relative_damping", false, "in units of a block's mean eigenvalue"),
          choice("damping_rule", kJudged, "how it is adapted"),
          integer_option("damping_interval", 5, "steps between adaptations"),
          choice("step_size", kStepSizes, "how far a step goes"),
          number_option("norm_constraint", 1e-3, "bound of a step's squared length"),
          number_option("trust_radius", 1e-3, "bound of its KL divergence"),
          flag_option("reject_increase", false, "a step that raises the loss is not taken"),
          number_option("statistics_fraction", 1, "of a batch from which statistics are taken"),
          number_option("model_fraction", 1, "of a batch from which the exact model is taken"),
          integer_option("mc_samples", 1, "draws per loss term")};
}

optim::NaturalGradientOptions natural_gradient_of(const OptionValues& values,
                                                  const OptimizerContext& context) {
  return {.learning_rate = values.number("learning_rate"),
          .momentum = values.number("momentum"),
          .step_size = chosen(values, "step_size", kStepSizes),
          .norm_constraint = values.number("norm_constraint"),
          .trust_radius = values.number("trust_radius"),
          .damping = values.number("damping"),
          .relative_damping = values.flag("relative_damping"),
          .damping_rule = chosen(values, "damping_rule", kJudged),
          .damping_interval = values.integer("damping_interval"),
          .reject_increase = values.flag("reject_increase"),
          .statistics_fraction = values.number("statistics_fraction"),
          .model_fraction = values.number("model_fraction"),
          .fisher = chosen(values, "fisher", kFishers),
          .mc_samples = values.integer("mc_samples"),
          .random = context.random};
}

OptimizerEntry layerwise_entry(const std::string& name, const std::string& description,
                               FisherApproximation curvature) {
  return entry(
      name, description,
      joined({natural_gradient_options(),
              {choice("damping_kind", kDampingKinds, "how it is added to Kronecker products"),
               flag_option("separate_bias", false, "a bias has a block of its own")},
              layer_options()}),
      [curvature](const EmpiricalRisk& risk, const OptionValues& values,
                  const OptimizerContext& context) {
        optim::NaturalGradientOptions options = natural_gradient_of(values, context);
        options.curvature = curvature;
        options.damping_kind = chosen(values, "damping_kind", kDampingKinds);
        options.decay = values.number("statistics_decay");
        options.statistics_interval = values.integer("statistics_interval");
        options.refresh_interval = values.integer("refresh_interval");
        options.weight_sharing = chosen(values, "weight_sharing", kSharings);
        options.separate_bias = values.flag("separate_bias");
        options.fallback = chosen(values, "fallback", kFallbacks);
        return optim::natural_gradient(risk, options);
      });
}

/// The exact matrix first.
const Words<Fisher> kFullFishers = {
    {"type-2", Fisher::kType2}, {"mc", Fisher::kMonteCarlo}, {"empirical", Fisher::kEmpirical}};

OptimizerEntry full_natural_gradient_entry() {
  return entry(
      "natural-gradient", "the whole matrix of the batch, inverted in the space of its data",
      joined({natural_gradient_options(),
              {choice("fisher", kFullFishers, "GGN, sampled GGN or empirical Fisher")}}),
      [](const EmpiricalRisk& risk, const OptionValues& values, const OptimizerContext& context) {
        optim::NaturalGradientOptions options = natural_gradient_of(values, context);
        options.curvature = FisherApproximation::kFull;
        return optim::natural_gradient(risk, options);
      });
}

/// The published default first.
const Words<Fisher> kSingdFishers = {{"empirical", Fisher::kEmpirical},
                                     {"mc", Fisher::kMonteCarlo},
                                     {"type-2", Fisher::kType2},
                                     {"forward-only", Fisher::kForwardOnly}};

OptimizerEntry singd_entry() {
  return entry(
      "singd", "natural gradient that learns inverse Kronecker factors; no decomposition",
      {number_option("learning_rate", 1e-3, "what directions are multiplied by"),
       number_option("momentum", 0.9, "weight of earlier directions"),
       number_option("damping", 1e-3, "added to the curvature"),
       number_option("preconditioner_rate", 0.01, "step size of the factors"),
       choice("rate_bound", kRateBounds, "norm of a factor's direction that divides it above 1"),
       number_option("alpha1", 0.5, "decay of the factors' own directions"),
       flag_option("kfac_like", false, "the factors of a layer do not see each other (IKFAC)"),
       integer_option("refresh_interval", 10, "steps between updates of the factors"),
       choice("input_structure", kStructures, "of the factors of inputs"),
       choice("output_structure", kStructures, "of the factors of outputs"),
       choice("dtype", kStateTypes, "of the factors"),
       choice("fisher", kSingdFishers, "which vectors are backpropagated"),
       integer_option("mc_samples", 1, "draws per loss term"),
       choice("weight_sharing", kSharings, "positions count alone, or are summed"),
       flag_option("separate_bias", false, "a bias has a block of its own"),
       choice("fallback", kFallbacks, "for parameters that no layer rule covers")},
      [](const EmpiricalRisk& risk, const OptionValues& values, const OptimizerContext& context) {
        return optim::singd(
            risk, {.learning_rate = values.number("learning_rate"),
                   .momentum = values.number("momentum"),
                   .damping = values.number("damping"),
                   .preconditioner_rate = values.number("preconditioner_rate"),
                   .rate_bound = chosen(values, "rate_bound", kRateBounds),
                   .alpha1 = values.number("alpha1"),
                   .kfac_like = values.flag("kfac_like"),
                   .refresh_interval = values.integer("refresh_interval"),
                   .input_structure = {.kind = chosen(values, "input_structure", kStructures)},
                   .output_structure = {.kind = chosen(values, "output_structure", kStructures)},
                   .dtype = chosen(values, "dtype", kStateTypes),
                   .fisher = chosen(values, "fisher", kSingdFishers),
                   .mc_samples = values.integer("mc_samples"),
                   .weight_sharing = chosen(values, "weight_sharing", kSharings),
                   .separate_bias = values.flag("separate_bias"),
                   .fallback = chosen(values, "fallback", kFallbacks),
                   .random = context.random});
      });
}

OptimizerEntry hessian_free_entry() {
  return entry(
      "hessian-free", "GGN and truncated conjugate gradients, damping by Levenberg-Marquardt",
      joined({newton_options(),
              {number_option("damping", 1, "at the start"),
               number_option("start_decay", 0.95, "part of the last solution to start from"),
               number_option("preconditioner_exponent", 0.75, "of a diagonal; 0: none"),
               curvature_option("ggn")}}),
      [](const EmpiricalRisk& risk, const OptionValues& values, const OptimizerContext& context) {
        return optim::hessian_free(
            risk, {.learning_rate = values.number("learning_rate"),
                   .damping = values.number("damping"),
                   .max_cg_iterations = values.integer("max_cg_iterations"),
                   .start_decay = values.number("start_decay"),
                   .preconditioner_exponent = values.number("preconditioner_exponent"),
                   .curvature = curvature_of(values, context)});
      });
}

OptimizerEntry levenberg_marquardt_entry() {
  return entry(
      "levenberg-marquardt", "GGN with damping that follows Nielsen's rule",
      joined({newton_options(),
              {number_option("damping", 1e-3, "at the start"),
               flag_option("scale_by_diagonal", false, "damps by the diagonal of the GGN"),
               choice_option("solver", {"cg", "data-space"},
                             "conjugate gradients, or exactly for few residuals"),
               curvature_option("ggn")}}),
      [](const EmpiricalRisk& risk, const OptionValues& values, const OptimizerContext& context) {
        optim::LevenbergMarquardtOptions options{
            .learning_rate = values.number("learning_rate"),
            .damping = values.number("damping"),
            .scale_by_diagonal = values.flag("scale_by_diagonal"),
            .max_cg_iterations = values.integer("max_cg_iterations"),
            .curvature = curvature_of(values, context)};
        if (values.word("solver") == "data-space") {
          CURVATURE_CHECK(values.word("curvature") == "ggn", OptionError,
                          "levenberg-marquardt: solver=data-space needs curvature=ggn, got {}",
                          values.word("curvature"));
          options.solver = optim::SystemSolver::kDirect;
          options.curvature = [](const EmpiricalRisk& batch) { return ggn_low_rank(batch); };
        }
        return optim::levenberg_marquardt(risk, options);
      });
}

OptimizerEntry gradient_regularized_entry() {
  return entry(
      "gradient-regularized-newton", "Newton's method, damped by a power of the gradient's norm",
      joined({newton_options(),
              {choice("rule", kGradientRules, "how the damping follows"),
               number_option("damping", 1, "at the start"),
               number_option("exponent", 2.0 / 3, "of the super-universal rule"),
               curvature_option("hessian")}}),
      [](const EmpiricalRisk& risk, const OptionValues& values, const OptimizerContext& context) {
        return optim::gradient_regularized_newton(
            risk, {.learning_rate = values.number("learning_rate"),
                   .rule = chosen(values, "rule", kGradientRules),
                   .damping = values.number("damping"),
                   .exponent = values.number("exponent"),
                   .max_cg_iterations = values.integer("max_cg_iterations"),
                   .curvature = curvature_of(values, context)});
      });
}

OptimizerEntry newton_cg_entry() {
  return entry(
      "newton-cg", "Newton's method in a trust region, negative curvature followed",
      joined({newton_options(),
              {number_option("radius", 1, "of the region at the start"),
               number_option("max_radius", 100, "it does not grow beyond"),
               curvature_option("hessian")}}),
      [](const EmpiricalRisk& risk, const OptionValues& values, const OptimizerContext& context) {
        return optim::newton_cg(risk, {.learning_rate = values.number("learning_rate"),
                                       .radius = values.number("radius"),
                                       .max_radius = values.number("max_radius"),
                                       .max_cg_iterations = values.integer("max_cg_iterations"),
                                       .curvature = curvature_of(values, context)});
      });
}

OptimizerEntry cubic_newton_entry() {
  return entry(
      "cubic-newton", "Newton's method with cubic regularisation in a Lanczos space",
      {number_option("learning_rate", 1, "part of the model's step that is taken"),
       number_option("cubic_coefficient", 1, "at the start"),
       integer_option("subspace_size", 30, "Lanczos steps"), curvature_option("hessian")},
      [](const EmpiricalRisk& risk, const OptionValues& values, const OptimizerContext& context) {
        return optim::cubic_newton(risk, {.learning_rate = values.number("learning_rate"),
                                          .cubic_coefficient = values.number("cubic_coefficient"),
                                          .subspace_size = values.integer("subspace_size"),
                                          .curvature = curvature_of(values, context),
                                          .random = context.random});
      });
}

OptimizerOptions variational_options() {
  return {number_option("learning_rate", 1e-2, "what directions are multiplied by"),
          number_option("momentum", 0.9, "weight of earlier gradients"),
          number_option("prior_precision", 1, "of each weight"),
          number_option("temperature", 1, "of the KL divergence"),
          number_option("damping", 1e-7, "added to the precision's average"),
          integer_option("mc_samples", 1, "draws of the weights in a step; 0: none")};
}

OptimizerEntry vogn_entry() {
  return entry(
      "vogn", "variational learning with a diagonal Gaussian over weights",
      joined({variational_options(),
              {number_option("decay", 0.99, "of the squared gradients' average")}}),
      [](const EmpiricalRisk& risk, const OptionValues& values, const OptimizerContext& context) {
        return optim::vogn(risk, {.learning_rate = values.number("learning_rate"),
                                  .momentum = values.number("momentum"),
                                  .decay = values.number("decay"),
                                  .prior_precision = values.number("prior_precision"),
                                  .temperature = values.number("temperature"),
                                  .damping = values.number("damping"),
                                  .mc_samples = values.integer("mc_samples"),
                                  .random = context.random});
      });
}

OptimizerEntry noisy_kfac_entry() {
  return entry(
      "noisy-kfac", "variational learning with a Gaussian of K-FAC's curvature",
      joined({variational_options(), layer_options()}),
      [](const EmpiricalRisk& risk, const OptionValues& values, const OptimizerContext& context) {
        return optim::noisy_kfac(risk,
                                 {.learning_rate = values.number("learning_rate"),
                                  .momentum = values.number("momentum"),
                                  .decay = values.number("statistics_decay"),
                                  .statistics_interval = values.integer("statistics_interval"),
                                  .refresh_interval = values.integer("refresh_interval"),
                                  .prior_precision = values.number("prior_precision"),
                                  .temperature = values.number("temperature"),
                                  .damping = values.number("damping"),
                                  .mc_samples = values.integer("mc_samples"),
                                  .fisher = chosen(values, "fisher", kFishers),
                                  .weight_sharing = chosen(values, "weight_sharing", kSharings),
                                  .fallback = chosen(values, "fallback", kFallbacks),
                                  .random = context.random});
      });
}

}  // namespace

std::vector<OptimizerEntry> model_based_optimizers() {
  return {
      layerwise_entry("kfac", "natural gradient with Kronecker factors for each layer",
                      FisherApproximation::kKfac),
      layerwise_entry("ekfac", "the same with corrected eigenvalues", FisherApproximation::kEkfac),
      layerwise_entry("kfoc", "the same with the nearest Kronecker products",
                      FisherApproximation::kKfoc),
      full_natural_gradient_entry(),
      singd_entry(),
      hessian_free_entry(),
      levenberg_marquardt_entry(),
      gradient_regularized_entry(),
      newton_cg_entry(),
      cubic_newton_entry(),
      vogn_entry(),
      noisy_kfac_entry()};
}

}  // namespace curvature::cli
