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
#include <curvature/spectral/low_rank.hpp>

#include "cli/operator_choice.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

constexpr const char* kDirect = "direct";
constexpr const char* kNeumann = "neumann";
constexpr const char* kNystrom = "nystrom";

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

/// Of the GGN's Nystrom approximation, between its range and the damping.
OperatorPtr make_nystrom(const SolverOptions& options, const EmpiricalRisk& risk, double damping,
                         const ProblemOptions& problem, const Observer& observer) {
  const OperatorPtr a = ggn(risk, {.memory_budget = problem.memory_budget});
  const EigenpairsResult found =
      nystrom(*a, {.rank = products_of_preconditioner(options, a->rows()),
                   .residuals = false,
                   .random = RandomSource(problem.seed).derive(2),
                   .observer = observer});
  return nystrom_preconditioner(found.top, damping, risk.space());
}

/// The inverse of a cheap model of the GGN, which is positive whatever the operator is, with the
/// operator's damping.
OperatorPtr make_preconditioner(const SolverOptions& options, const EmpiricalRisk& risk,
                                const OperatorOptions& choice, const ProblemOptions& problem,
                                const Observer& observer) {
  const std::string& name = options.preconditioner;
  const double damping = std::max(choice.damping, 0.0);
  if (name == "diagonal") {
    const OperatorPtr ggn = ggn_diagonal(risk, {.memory_budget = problem.memory_budget});
    return diagonal_preconditioner(*ggn->diagonal(), risk.space(), damping);
  }
  if (name == kNystrom) return make_nystrom(options, risk, damping, problem, observer);
  OperatorOptions layerwise = choice;  // with what was said of layer rules
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

std::vector<std::string> preconditioner_names() { return {"diagonal", "kfac", "ekfac", kNystrom}; }

double tolerance_of(const SolverOptions& options, at::ScalarType dtype) {
  return options.tolerance.value_or(dtype == at::kDouble ? 1e-6 : 1e-5);
}

int64_t max_iterations_of(const SolverOptions& options) {
  return options.name == kDirect ? 0 : options.max_iterations.value_or(1000);
}

int64_t memory_of(const SolverOptions& options, const at::Tensor& rhs) {
  constexpr int64_t kCommon = 4;  // right-hand side, solution, operand and product
  if (options.name == kDirect) return 3 * 8 * rhs.size(0) * rhs.size(0);
  // Test vectors, their products, and what is made of both.
  const int64_t preconditioner = 4 * products_of_preconditioner(options, rhs.size(0)) * rhs.size(0);
  return ((kCommon + choice_of(options).vectors) * rhs.numel() + preconditioner) *
         rhs.element_size();
}

int64_t products_of_preconditioner(const SolverOptions& options, int64_t size) {
  if (options.preconditioner != kNystrom) return 0;
  return std::min<int64_t>(options.preconditioner_rank.value_or(100), size);
}

void check_solver_options(const SolverOptions& options, const OperatorOptions& choice) {
  CURVATURE_CHECK(!options.step_size || options.name == kNeumann, OptionError,
                  "--step-size belongs to the Neumann series; expected --solver neumann, got {}",
                  options.name);
  const bool is_nystrom = options.preconditioner == kNystrom;
  CURVATURE_CHECK(is_nystrom || !options.preconditioner_rank, OptionError,
                  "--preconditioner-rank belongs to a low-rank preconditioner; expected "
                  "--preconditioner nystrom, got {}",
                  options.preconditioner.empty() ? "none" : options.preconditioner);
  CURVATURE_CHECK(!is_nystrom || choice.damping > 0, OptionError,
                  "--preconditioner nystrom takes what it does not see for the damping; expected a "
                  "positive --damping, got {}",
                  choice.damping);
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
    iteration.preconditioner = make_preconditioner(options, risk, choice, problem, observer);
  }
  return choice_of(options).make(iteration, options, RandomSource(problem.seed).derive(1));
}

}  // namespace curvature::cli
