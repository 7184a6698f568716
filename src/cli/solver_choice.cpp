#include "cli/solver_choice.hpp"

#include <algorithm>
#include <functional>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/solvers/conjugate_gradient.hpp>
#include <curvature/solvers/direct.hpp>
#include <curvature/solvers/least_squares.hpp>
#include <curvature/solvers/minres.hpp>
#include <curvature/solvers/neumann.hpp>
#include <curvature/solvers/preconditioner.hpp>

#include "cli/operator_choice.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

constexpr const char* kDirect = "direct";
constexpr const char* kNeumann = "neumann";

struct Choice {
  std::string name;
  int64_t vectors;  ///< of each column, besides right-hand side, solution and product
  std::function<SolverPtr(const IterationOptions&, const SolverOptions&, const RandomSource&)> make;
};

/// Solvers that need nothing but the common options.
Choice simple(const std::string& name, int64_t vectors,
              SolverPtr (*make)(const IterationOptions&)) {
  return {name, vectors,
          [make](const IterationOptions& iteration, const SolverOptions&, const RandomSource&) {
            return make(iteration);
          }};
}

Choice least_squares(const std::string& name, int64_t vectors,
                     SolverPtr (*make)(const LeastSquaresOptions&)) {
  return {name, vectors,
          [make](const IterationOptions& iteration, const SolverOptions&, const RandomSource&) {
            return make({.iteration = iteration});
          }};
}

const std::vector<Choice>& choices() {
  static const std::vector<Choice> table = {
      simple("cg", 3, &conjugate_gradient),
      simple("block-cg", 3, &block_conjugate_gradient),
      simple("minres", 5, &minres),
      {kNeumann, 2,
       [](const IterationOptions& iteration, const SolverOptions& options,
          const RandomSource& random) {
         return neumann({.iteration = iteration, .step_size = options.step_size, .random = random});
       }},
      least_squares("lsmr", 4, &lsmr),
      least_squares("lsqr", 3, &lsqr),
      {kDirect, 0,
       [](const IterationOptions& iteration, const SolverOptions&, const RandomSource&) {
         return direct(
             {.relative_residual = iteration.relative_residual, .observer = iteration.observer});
       }},
  };
  return table;
}

const Choice& choice_of(const SolverOptions& options) {
  return *std::find_if(choices().begin(), choices().end(),
                       [&](const Choice& choice) { return choice.name == options.name; });
}

/// The inverse of a cheap model of the GGN, which is positive whatever the operator is, with the
/// operator's damping.
OperatorPtr make_preconditioner(const std::string& name, const EmpiricalRisk& risk,
                                const OperatorOptions& choice, const ProblemOptions& problem,
                                const Observer& observer) {
  const double damping = std::max(choice.damping, 0.0);
  if (name == "diagonal") {
    const OperatorPtr ggn = ggn_diagonal(risk, {.memory_budget = problem.memory_budget});
    return diagonal_preconditioner(*ggn->diagonal(), risk.space(), damping);
  }
  OperatorOptions layerwise = choice;
  if (!is_made_of_blocks(choice)) layerwise = {};
  layerwise.name = name;
  layerwise.damping = damping;
  return inverse(make_operator(risk, layerwise, problem, observer));
}

}  // namespace

std::vector<std::string> solver_names() {
  std::vector<std::string> names;
  for (const Choice& choice : choices()) names.push_back(choice.name);
  return names;
}

std::vector<std::string> preconditioner_names() { return {"diagonal", "kfac", "ekfac"}; }

double tolerance_of(const SolverOptions& options, at::ScalarType dtype) {
  return options.tolerance.value_or(dtype == at::kDouble ? 1e-6 : 1e-5);
}

int64_t max_iterations_of(const SolverOptions& options) {
  return options.name == kDirect ? 0 : options.max_iterations.value_or(1000);
}

int64_t memory_of(const SolverOptions& options, const at::Tensor& rhs) {
  constexpr int64_t kCommon = 4;  // right-hand side, solution, operand and product
  if (options.name == kDirect) return 3 * 8 * rhs.size(0) * rhs.size(0);
  return (kCommon + choice_of(options).vectors) * rhs.numel() * rhs.element_size();
}

void check_solver_options(const SolverOptions& options) {
  CURVATURE_CHECK(!options.step_size || options.name == kNeumann, OptionError,
                  "--step-size belongs to the Neumann series; expected --solver neumann, got {}",
                  options.name);
  const bool iterates = options.name != kDirect;
  CURVATURE_CHECK(iterates || !options.max_iterations, OptionError,
                  "--max-iterations: the direct solver does not iterate; expected another "
                  "--solver, got direct");
  CURVATURE_CHECK(iterates || options.preconditioner.empty(), OptionError,
                  "--preconditioner: the direct solver has none; expected another --solver, got "
                  "direct");
}

SolverPtr make_solver(const SolverOptions& options, const EmpiricalRisk& risk,
                      const OperatorOptions& choice, const ProblemOptions& problem,
                      const Observer& observer) {
  const at::ScalarType dtype = risk.model().parameters().front().tensor.scalar_type();
  IterationOptions iteration = {.relative_residual = tolerance_of(options, dtype),
                                .max_iterations = max_iterations_of(options),
                                .observer = observer};
  if (!options.preconditioner.empty()) {
    iteration.preconditioner =
        make_preconditioner(options.preconditioner, risk, choice, problem, observer);
  }
  return choice_of(options).make(iteration, options, RandomSource(problem.seed).derive(1));
}

}  // namespace curvature::cli
