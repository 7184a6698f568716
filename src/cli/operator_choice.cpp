#include "cli/operator_choice.hpp"

#include <algorithm>
#include <functional>
#include <map>

#include <curvature/layerwise/kfac.hpp>
#include <curvature/layerwise/shampoo.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/operators/algebra.hpp>

#include "core/check.hpp"

namespace curvature::cli {
namespace {

/// What operators are made with.
struct Settings {
  MatrixFreeOptions matrix_free;
  MonteCarloOptions monte_carlo;
  KfacOptions layerwise;
  ShampooOptions shampoo;
  KlShampooOptions kl_shampoo;
};

enum class Kind { kMatrixFree, kDiagonal, kLayerwise, kShampoo };

struct Choice {
  std::string name;
  Kind kind;
  std::function<OperatorPtr(const EmpiricalRisk&, const Settings&)> make;
};

Choice matrix_free(const std::string& name, Kind kind,
                   OperatorPtr (*make)(const EmpiricalRisk&, const MatrixFreeOptions&)) {
  return {name, kind, [make](const EmpiricalRisk& risk, const Settings& settings) {
            return make(risk, settings.matrix_free);
          }};
}

Choice layerwise(const std::string& name,
                 OperatorPtr (*make)(const EmpiricalRisk&, const KfacOptions&)) {
  return {name, Kind::kLayerwise, [make](const EmpiricalRisk& risk, const Settings& settings) {
            return make(risk, settings.layerwise);
          }};
}

const std::vector<Choice>& choices() {
  static const std::vector<Choice> table = {
      matrix_free("hessian", Kind::kMatrixFree, &hessian),
      matrix_free("ggn", Kind::kMatrixFree, &ggn),
      {"ggn-mc", Kind::kMatrixFree,
       [](const EmpiricalRisk& risk, const Settings& settings) {
         return ggn_mc(risk, settings.monte_carlo, settings.matrix_free);
       }},
      matrix_free("empirical-fisher", Kind::kMatrixFree, &empirical_fisher),
      matrix_free("gradient-covariance", Kind::kMatrixFree, &gradient_covariance),
      matrix_free("ggn-diagonal", Kind::kDiagonal, &ggn_diagonal),
      matrix_free("hessian-diagonal", Kind::kDiagonal, &hessian_diagonal),
      layerwise("kfac", &kfac),
      layerwise("ekfac", &ekfac),
      layerwise("kfoc", &kfoc),
      {"shampoo", Kind::kShampoo,
       [](const EmpiricalRisk& risk, const Settings& settings) {
         return shampoo(risk, settings.shampoo);
       }},
      {"kl-shampoo", Kind::kShampoo,
       [](const EmpiricalRisk& risk, const Settings& settings) {
         return kl_shampoo(risk, settings.kl_shampoo);
       }},
  };
  return table;
}

const Choice& choice_of(const OperatorOptions& options) {
  return *std::find_if(choices().begin(), choices().end(),
                       [&](const Choice& choice) { return choice.name == options.name; });
}

/// Whether `name` is that of an operator with layer rules; some names are no operator's.
bool is_layerwise(const std::string& name) {
  return std::any_of(choices().begin(), choices().end(), [&](const Choice& choice) {
    return choice.name == name && choice.kind == Kind::kLayerwise;
  });
}

Blocks blocks_of(const OperatorOptions& options) {
  if (options.block_diagonal == "layer") return Blocks::kLayer;
  return options.block_diagonal == "parameter" ? Blocks::kParameter : Blocks::kFull;
}

KfacOptions layerwise_options(const OperatorOptions& options, const RandomSource& random,
                              const Observer& observer) {
  static const std::map<std::string, Fisher> fishers = {{"", Fisher::kType2},
                                                        {"type-2", Fisher::kType2},
                                                        {"mc", Fisher::kMonteCarlo},
                                                        {"empirical", Fisher::kEmpirical},
                                                        {"forward-only", Fisher::kForwardOnly}};
  static const std::map<std::string, Fallback> fallbacks = {{"", Fallback::kRefuse},
                                                            {"refuse", Fallback::kRefuse},
                                                            {"diagonal", Fallback::kDiagonal},
                                                            {"block", Fallback::kBlock}};
  return {.fisher = fishers.at(options.fisher),
          .mc_samples = options.mc_samples.value_or(1),
          .weight_sharing =
              options.weight_sharing == "reduce" ? WeightSharing::kReduce : WeightSharing::kExpand,
          .separate_bias = options.separate_bias,
          .fallback = fallbacks.at(options.fallback),
          .random = random,
          .observer = observer};
}

/// The first option given that only operators with layer rules take; empty if there is none.
std::string layerwise_option(const OperatorOptions& options) {
  if (!options.fisher.empty()) return "--fisher";
  if (!options.weight_sharing.empty()) return "--weight-sharing";
  if (options.separate_bias) return "--separate-bias";
  return options.fallback.empty() ? "" : "--fallback";
}

}  // namespace

std::vector<std::string> operator_names() {
  std::vector<std::string> names;
  for (const Choice& choice : choices()) names.push_back(choice.name);
  return names;
}

void check_operator_options(const OperatorOptions& options, const std::string& preconditioner) {
  const bool layerwise = is_layerwise(options.name) || is_layerwise(preconditioner);
  CURVATURE_CHECK(
      layerwise || layerwise_option(options).empty(), OptionError,
      "{} belongs to operators with layer rules; expected --operator kfac, ekfac or kfoc, got {}",
      layerwise_option(options), options.name);
  CURVATURE_CHECK(
      !options.mc_samples || options.name == "ggn-mc" || (layerwise && options.fisher == "mc"),
      OptionError,
      "--mc-samples belongs to a Monte-Carlo operator; expected --operator ggn-mc or --fisher mc, "
      "got {}",
      options.name);
  for (const std::string& name : {options.name, preconditioner}) {
    CURVATURE_CHECK(
        name == "kfac" || !is_layerwise(name) || options.fisher != "forward-only", OptionError,
        "--fisher: {} needs gradients; expected type-2, mc or empirical, got forward-only", name);
  }
  CURVATURE_CHECK(
      options.name == "kl-shampoo" || !options.fit_damping, OptionError,
      "--fit-damping: only kl-shampoo is fitted; expected --operator kl-shampoo, got {}",
      options.name);
  CURVATURE_CHECK(
      options.block_diagonal.empty() || choice_of(options).kind == Kind::kMatrixFree, OptionError,
      "--block-diagonal needs an operator that is not block-diagonal already; expected hessian, "
      "ggn or a relative, got {}",
      options.name);
}

OperatorPtr make_operator(const EmpiricalRisk& risk, const OperatorOptions& options,
                          const ProblemOptions& problem, const Observer& observer) {
  const RandomSource random(problem.seed);
  const Settings settings = {
      .matrix_free = {.memory_budget = problem.memory_budget,
                      .blocks = blocks_of(options),
                      .observer = observer},
      .monte_carlo = {.samples = options.mc_samples.value_or(1), .random = random},
      .layerwise = layerwise_options(options, random, observer),
      .shampoo = {.observer = observer},
      .kl_shampoo = {.damping = options.fit_damping.value_or(0),
                     .memory_budget = problem.memory_budget,
                     .observer = observer}};
  OperatorPtr made = choice_of(options).make(risk, settings);
  return options.damping == 0 ? made : shifted(made, options.damping);
}

bool is_diagonal(const OperatorOptions& options) {
  return choice_of(options).kind == Kind::kDiagonal;
}

bool is_made_of_blocks(const OperatorOptions& options) {
  const Kind kind = choice_of(options).kind;
  return kind == Kind::kLayerwise || kind == Kind::kShampoo;
}

int64_t products_to_build(const OperatorOptions& options, int64_t size) {
  return options.name == "hessian-diagonal" ? size : 0;
}

}  // namespace curvature::cli
