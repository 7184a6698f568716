#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/optim/natural_gradient.hpp>
#include <curvature/optim/newton.hpp>
#include <curvature/optim/singd.hpp>
#include <curvature/optim/variational.hpp>

#include "cli/optimizers/families.hpp"
#include "cli/optimizers/fields.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

using optim::DampingRule;
using optim::FisherApproximation;
using optim::NaturalGradientOptions;
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

/// An optimizer that needs the model, from where its options start.
template <class Options>
OptimizerEntry entry(std::string name, std::string description, const Fields<Options>& fields,
                     std::unique_ptr<optim::Minimizer> (*make)(const EmpiricalRisk&,
                                                               const Options&),
                     const Options& start = {}) {
  std::vector<OptimizerOption> listed;
  for (const Field<Options>& field : fields) listed.push_back(field.option);
  listed.push_back(
      number_option("weight_decay", 0, "half of it times the squared norm is added to the loss"));
  const auto from_risk = [fields, make, start](const EmpiricalRisk& risk,
                                               const OptionValues& values,
                                               const OptimizerContext& context) {
    Options options = start;
    for (const Field<Options>& field : fields) field.read(options, values, context);
    if constexpr (requires { options.random; }) options.random = context.random;
    return make(risk, options);
  };
  return {.name = std::move(name),
          .description = std::move(description),
          .options = std::move(listed),
          .from_risk = from_risk};
}

/// Of those that follow directions with a momentum.
template <class Options>
Fields<Options> direction_fields(const std::string& momentum) {
  return {number(&Options::learning_rate, "learning_rate", "what directions are multiplied by"),
          number(&Options::momentum, "momentum", momentum)};
}

template <class Options>
Field<Options> damping_field() {
  return number(&Options::damping, "damping", "added to the curvature");
}

template <class Options>
Field<Options> draws_field() {
  return integer(&Options::mc_samples, "mc_samples", "draws per loss term");
}

template <class Options>
Field<Options> fisher_field(const Words<Fisher>& words) {
  return word(&Options::fisher, "fisher", words, "which vectors are backpropagated");
}

template <class Options>
Field<Options> sharing_field() {
  return word(&Options::weight_sharing, "weight_sharing", kSharings,
              "positions count alone, or are summed");
}

template <class Options>
Field<Options> separate_bias_field() {
  return flag(&Options::separate_bias, "separate_bias", "a bias has a block of its own");
}

template <class Options>
Field<Options> fallback_field() {
  return word(&Options::fallback, "fallback", kFallbacks,
              "for parameters that no layer rule covers");
}

/// Of those with statistics of layers.
template <class Options>
Fields<Options> layer_fields() {
  return {fisher_field<Options>(kFishers),
          sharing_field<Options>(),
          fallback_field<Options>(),
          integer(&Options::refresh_interval, "refresh_interval", "steps between inverses"),
          integer(&Options::statistics_interval, "statistics_interval",
                  "steps between updates of the statistics"),
          number(&Options::decay, "statistics_decay", "of earlier statistics")};
}

/// Of every natural gradient.
Fields<NaturalGradientOptions> natural_gradient_fields() {
  using Options = NaturalGradientOptions;
  return joined(
      {direction_fields<Options>("of the last update"),
       {damping_field<Options>(),
        flag(&Options::relative_damping, "relative_damping",
             "in units of a block's mean eigenvalue"),
        word(&Options::damping_rule, "damping_rule", kJudged, "how it is adapted"),
        integer(&Options::damping_interval, "damping_interval", "steps between adaptations"),
        word(&Options::step_size, "step_size", kStepSizes, "how far a step goes"),
        number(&Options::norm_constraint, "norm_constraint", "bound of a step's squared length"),
        number(&Options::trust_radius, "trust_radius", "bound of its KL divergence"),
        flag(&Options::reject_increase, "reject_increase",
             "a step that raises the loss is not taken"),
        number(&Options::statistics_fraction, "statistics_fraction",
               "of a batch from which statistics are taken"),
        number(&Options::model_fraction, "model_fraction",
               "of a batch from which the exact model is taken"),
        draws_field<Options>()}});
}

OptimizerEntry layerwise_entry(const std::string& name, const std::string& description,
                               FisherApproximation curvature) {
  using Options = NaturalGradientOptions;
  return entry(name, description,
               joined({natural_gradient_fields(),
                       {word(&Options::damping_kind, "damping_kind", kDampingKinds,
                             "how it is added to Kronecker products"),
                        separate_bias_field<Options>()},
                       layer_fields<Options>()}),
               optim::natural_gradient, {.curvature = curvature});
}

/// The exact matrix first.
const Words<Fisher> kFullFishers = {
    {"type-2", Fisher::kType2}, {"mc", Fisher::kMonteCarlo}, {"empirical", Fisher::kEmpirical}};

OptimizerEntry full_natural_gradient_entry() {
  return entry("natural-gradient",
               "the whole matrix of the batch, inverted in the space of its data",
               joined({natural_gradient_fields(),
                       {word(&NaturalGradientOptions::fisher, "fisher", kFullFishers,
                             "GGN, sampled GGN or empirical Fisher")}}),
               optim::natural_gradient, {.curvature = FisherApproximation::kFull});
}

/// The published default first.
const Words<Fisher> kSingdFishers = {{"empirical", Fisher::kEmpirical},
                                     {"mc", Fisher::kMonteCarlo},
                                     {"type-2", Fisher::kType2},
                                     {"forward-only", Fisher::kForwardOnly}};

Field<optim::SingdOptions> structure(optim::StructureOptions optim::SingdOptions::*member,
                                     const std::string& name, const std::string& description) {
  return {choice(name, kStructures, description),
          [member, name](optim::SingdOptions& options, const OptionValues& values,
                         const OptimizerContext&) {
            (options.*member).kind = chosen(values, name, kStructures);
          }};
}

OptimizerEntry singd_entry() {
  using Options = optim::SingdOptions;
  return entry(
      "singd", "natural gradient that learns inverse Kronecker factors; no decomposition",
      joined(
          {direction_fields<Options>("weight of earlier directions"),
           {damping_field<Options>(),
            number(&Options::preconditioner_rate, "preconditioner_rate",
                   "step size of the factors"),
            word(&Options::rate_bound, "rate_bound", kRateBounds,
                 "norm of a factor's direction that divides it above 1"),
            number(&Options::alpha1, "alpha1", "decay of the factors' own directions"),
            flag(&Options::kfac_like, "kfac_like",
                 "the factors of a layer do not see each other (IKFAC)"),
            integer(&Options::refresh_interval, "refresh_interval",
                    "steps between updates of the factors"),
            structure(&Options::input_structure, "input_structure", "of the factors of inputs"),
            structure(&Options::output_structure, "output_structure", "of the factors of outputs"),
            word(&Options::dtype, "dtype", kDtypes, "of the factors"),
            fisher_field<Options>(kSingdFishers), draws_field<Options>(), sharing_field<Options>(),
            separate_bias_field<Options>(), fallback_field<Options>()}}),
      optim::singd);
}

/// Of those that minimise a quadratic model.
template <class Options>
Field<Options> model_step_field() {
  return number(&Options::learning_rate, "learning_rate", "part of the model's step that is taken");
}

/// Of those that do so by conjugate gradients.
template <class Options>
Fields<Options> newton_fields() {
  return {model_step_field<Options>(),
          integer(&Options::max_cg_iterations, "max_cg_iterations", "of a step")};
}

optim::CurvatureFunction curvature_of(const OptionValues& values, const OptimizerContext& context) {
  const MatrixFreeOptions options = {.memory_budget = context.memory_budget};
  if (values.word("curvature") == "ggn") {
    return [options](const EmpiricalRisk& batch) { return ggn(batch, options); };
  }
  return [options](const EmpiricalRisk& batch) { return hessian(batch, options); };
}

/// The curvature of a quadratic model: `ggn` or `hessian`, in either order.
template <class Options>
Field<Options> curvature_field(const std::vector<std::string>& words) {
  return {choice_option("curvature", words, "of the quadratic model"),
          [](Options& options, const OptionValues& values, const OptimizerContext& context) {
            options.curvature = curvature_of(values, context);
          }};
}

OptimizerEntry hessian_free_entry() {
  using Options = optim::HessianFreeOptions;
  return entry(
      "hessian-free", "GGN and truncated conjugate gradients, damping by Levenberg-Marquardt",
      joined(
          {newton_fields<Options>(),
           {number(&Options::damping, "damping", "at the start"),
            number(&Options::start_decay, "start_decay", "part of the last solution to start from"),
            number(&Options::preconditioner_exponent, "preconditioner_exponent",
                   "of a diagonal; 0: none"),
            curvature_field<Options>({"ggn", "hessian"})}}),
      optim::hessian_free);
}

/// The solver that is exact wants a curvature of its own.
std::unique_ptr<optim::Minimizer> levenberg_marquardt_of(
    const EmpiricalRisk& risk, const optim::LevenbergMarquardtOptions& options) {
  if (options.solver != optim::SystemSolver::kDirect)
    return optim::levenberg_marquardt(risk, options);
  optim::LevenbergMarquardtOptions direct = options;
  direct.curvature = [](const EmpiricalRisk& batch) { return ggn_low_rank(batch); };
  return optim::levenberg_marquardt(risk, direct);
}

Field<optim::LevenbergMarquardtOptions> solver_field() {
  return {choice_option("solver", {"cg", "data-space"},
                        "conjugate gradients, or exactly for few residuals"),
          [](optim::LevenbergMarquardtOptions& options, const OptionValues& values,
             const OptimizerContext&) {
            if (values.word("solver") != "data-space") return;
            CURVATURE_CHECK(values.word("curvature") == "ggn", OptionError,
                            "levenberg-marquardt: solver=data-space needs curvature=ggn, got {}",
                            values.word("curvature"));
            options.solver = optim::SystemSolver::kDirect;
          }};
}

OptimizerEntry levenberg_marquardt_entry() {
  using Options = optim::LevenbergMarquardtOptions;
  return entry("levenberg-marquardt", "GGN with damping that follows Nielsen's rule",
               joined({newton_fields<Options>(),
                       {number(&Options::damping, "damping", "at the start"),
                        flag(&Options::scale_by_diagonal, "scale_by_diagonal",
                             "damps by the diagonal of the GGN"),
                        solver_field(), curvature_field<Options>({"ggn", "hessian"})}}),
               levenberg_marquardt_of);
}

OptimizerEntry gradient_regularized_entry() {
  using Options = optim::GradientRegularizedNewtonOptions;
  return entry("gradient-regularized-newton",
               "Newton's method, damped by a power of the gradient's norm",
               joined({newton_fields<Options>(),
                       {word(&Options::rule, "rule", kGradientRules, "how the damping follows"),
                        number(&Options::damping, "damping", "at the start"),
                        number(&Options::exponent, "exponent", "of the super-universal rule"),
                        curvature_field<Options>({"hessian", "ggn"})}}),
               optim::gradient_regularized_newton);
}

OptimizerEntry newton_cg_entry() {
  using Options = optim::NewtonCgOptions;
  return entry("newton-cg", "Newton's method in a trust region, negative curvature followed",
               joined({newton_fields<Options>(),
                       {number(&Options::radius, "radius", "of the region at the start"),
                        number(&Options::max_radius, "max_radius", "it does not grow beyond"),
                        curvature_field<Options>({"hessian", "ggn"})}}),
               optim::newton_cg);
}

OptimizerEntry cubic_newton_entry() {
  using Options = optim::CubicNewtonOptions;
  return entry(
      "cubic-newton", "Newton's method with cubic regularisation in a Lanczos space",
      Fields<Options>{model_step_field<Options>(),
                      number(&Options::cubic_coefficient, "cubic_coefficient", "at the start"),
                      integer(&Options::subspace_size, "subspace_size", "Lanczos steps"),
                      curvature_field<Options>({"hessian", "ggn"})},
      optim::cubic_newton);
}

template <class Options>
Fields<Options> variational_fields() {
  return joined(
      {direction_fields<Options>("weight of earlier gradients"),
       {number(&Options::prior_precision, "prior_precision", "of each weight"),
        number(&Options::temperature, "temperature", "of the KL divergence"),
        number(&Options::damping, "damping", "added to the precision's average"),
        integer(&Options::mc_samples, "mc_samples", "draws of the weights in a step; 0: none")}});
}

OptimizerEntry vogn_entry() {
  using Options = optim::VognOptions;
  return entry("vogn", "variational learning with a diagonal Gaussian over weights",
               joined({variational_fields<Options>(),
                       {number(&Options::decay, "decay", "of the squared gradients' average")}}),
               optim::vogn);
}

OptimizerEntry noisy_kfac_entry() {
  using Options = optim::NoisyKfacOptions;
  return entry("noisy-kfac", "variational learning with a Gaussian of K-FAC's curvature",
               joined({variational_fields<Options>(), layer_fields<Options>()}), optim::noisy_kfac);
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
