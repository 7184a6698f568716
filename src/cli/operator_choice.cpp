#include "cli/operator_choice.hpp"

#include <algorithm>
#include <functional>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/operators/algebra.hpp>

#include "cli/validators.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

using Factory = std::function<OperatorPtr(const EmpiricalRisk&, const MonteCarloOptions&,
                                          const MatrixFreeOptions&)>;

struct Choice {
  std::string name;
  bool is_diagonal;
  Factory make;
};

/// Forgets the Monte-Carlo options.
Factory exact(OperatorPtr (*make)(const EmpiricalRisk&, const MatrixFreeOptions&)) {
  return [make](const EmpiricalRisk& risk, const MonteCarloOptions&,
                const MatrixFreeOptions& options) { return make(risk, options); };
}

const std::vector<Choice>& choices() {
  static const std::vector<Choice> table = {
      {"hessian", false, exact(&hessian)},
      {"ggn", false, exact(&ggn)},
      {"ggn-mc", false, &ggn_mc},
      {"empirical-fisher", false, exact(&empirical_fisher)},
      {"gradient-covariance", false, exact(&gradient_covariance)},
      {"ggn-diagonal", true, exact(&ggn_diagonal)},
      {"hessian-diagonal", true, exact(&hessian_diagonal)},
  };
  return table;
}

const Choice& choice_of(const OperatorOptions& options) {
  return *std::find_if(choices().begin(), choices().end(),
                       [&](const Choice& choice) { return choice.name == options.name; });
}

Blocks blocks_of(const OperatorOptions& options) {
  if (options.block_diagonal == "layer") return Blocks::kLayer;
  return options.block_diagonal == "parameter" ? Blocks::kParameter : Blocks::kFull;
}

}  // namespace

std::vector<std::string> operator_names() {
  std::vector<std::string> names;
  for (const Choice& choice : choices()) names.push_back(choice.name);
  return names;
}

CLI::Validator operator_name() {
  const auto check = [](std::string& value) -> std::string {
    const std::vector<std::string> later = {"kfac", "ekfac", "kfoc", "shampoo", "kl-shampoo"};
    const std::string reason = one_of(operator_names())(value);
    if (std::find(later.begin(), later.end(), value) == later.end()) return reason;
    return "not available in this version; " + reason;
  };
  return {check, ""};
}

void check_operator_options(const OperatorOptions& options) {
  CURVATURE_CHECK(!options.mc_samples || options.name == "ggn-mc", OptionError,
                  "--mc-samples belongs to a Monte-Carlo operator; expected --operator ggn-mc, "
                  "got {}",
                  options.name);
  CURVATURE_CHECK(options.block_diagonal.empty() || !choice_of(options).is_diagonal, OptionError,
                  "--block-diagonal needs an operator that is not diagonal already; expected "
                  "hessian, ggn or a relative, got {}",
                  options.name);
}

OperatorPtr make_operator(const EmpiricalRisk& risk, const OperatorOptions& options,
                          const ProblemOptions& problem, const Observer& observer) {
  const MatrixFreeOptions matrix_free = {
      .memory_budget = problem.memory_budget, .blocks = blocks_of(options), .observer = observer};
  const MonteCarloOptions monte_carlo = {.samples = options.mc_samples.value_or(1),
                                         .random = RandomSource(problem.seed)};
  OperatorPtr made = choice_of(options).make(risk, monte_carlo, matrix_free);
  return options.damping == 0 ? made : shifted(made, options.damping);
}

bool is_diagonal(const OperatorOptions& options) { return choice_of(options).is_diagonal; }

int64_t products_to_build(const OperatorOptions& options, int64_t size) {
  return options.name == "hessian-diagonal" ? size : 0;
}

}  // namespace curvature::cli
