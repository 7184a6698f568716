#include <algorithm>
#include <cmath>

#include <CLI/App.hpp>

#include <curvature/io/array.hpp>

#include "cli/command.hpp"
#include "cli/operator_choice.hpp"
#include "cli/options.hpp"
#include "cli/problem.hpp"
#include "cli/progress_bar.hpp"
#include "cli/report.hpp"
#include "cli/solver_choice.hpp"
#include "cli/validators.hpp"
#include "core/check.hpp"
#include "core/finite.hpp"

namespace curvature::cli {
namespace {

struct SolveOptions {
  ProblemOptions problem;
  OperatorOptions choice;
  SolverOptions solver;
  std::string rhs;
  std::string start;
  std::string output;
  bool require_convergence = false;
};

Plan plan_of(const SolveOptions& options, const Problem& problem, const at::Tensor& rhs) {
  const int64_t size = problem.space.size(), columns = columns_of(rhs);
  const int64_t iterations = max_iterations_of(options.solver);
  const int64_t products = iterations > 0 ? columns * (iterations + 1) : size + 2 * columns;
  const std::string job = fmt::format(
      "solution of {} with {} by {}, {}{}", count_of(columns, "system"), options.choice.name,
      options.solver.name, iterations > 0 ? "at most " : "", count_of(products, "product"));
  return {.job = job,
          .products = products + products_to_build(options.choice, size) +
                      products_of_preconditioner(options.solver, size),
          .memory_bytes = memory_of(options.solver, rhs)};
}

struct Result {
  Solution solution;
  double seconds = 0;
};

Result compute(const SolveOptions& options, const EmpiricalRisk& risk, const at::Tensor& rhs,
               const at::Tensor& start) {
  const Stopwatch watch;
  ProgressBar bar;
  // One bar: a diagonal's own computation, then the iterations; not the batches of each product.
  const bool slow_to_build = products_to_build(options.choice, risk.space().size()) > 0;
  const OperatorPtr a = make_operator(risk, options.choice, options.problem,
                                      slow_to_build ? bar.observer() : Observer());
  const SolverPtr solver =
      make_solver(options.solver, risk, options.choice, options.problem, bar.observer());
  Result result{.solution = solve(a, rhs, solver, start)};
  const int64_t size = risk.space().size();
  result.solution.report.products +=
      products_to_build(options.choice, size) + products_of_preconditioner(options.solver, size);
  result.seconds = watch.seconds();
  return result;
}

Json to_json(const Result& result, const SolveOptions& options, int64_t size) {
  const SolveReport& report = result.solution.report;
  Json json = {{"operator", options.choice.name},
               {"num_parameters", size},
               {"solver", options.solver.name},
               {"termination", to_string(report.termination)},
               {"iterations", report.iterations},
               {"products", report.products},
               {"relative_residual", report.relative_residuals}};
  if (report.negative_direction.defined()) json["negative_curvature"] = report.negative_curvature;
  json["output"] = options.output;
  json["seconds"] = result.seconds;
  return json;
}

std::string describe(const Result& result, const SolveOptions& options) {
  const SolveReport& report = result.solution.report;
  std::string text = fmt::format("{} after {}, {} in {:.1f} s\n", to_string(report.termination),
                                 count_of(report.iterations, "iteration"),
                                 count_of(report.products, "product"), result.seconds);
  for (size_t k = 0; k < report.relative_residuals.size(); ++k) {
    text += fmt::format("column {}: relative residual {:.2e}, {}\n", k,
                        report.relative_residuals[k], to_string(report.terminations[k]));
  }
  if (report.negative_direction.defined()) {
    text += fmt::format("met a direction of curvature {:.4g}: add damping, or use minres\n",
                        report.negative_curvature);
  }
  return text + fmt::format("solution in {}\n", options.output);
}

/// A product that is not finite leaves nothing to report.
void check_finite(const Solution& solution) {
  const std::vector<double>& residuals = solution.report.residuals;
  const bool is_finite = detail::is_finite(solution.x) &&
                         std::all_of(residuals.begin(), residuals.end(),
                                     [](double residual) { return std::isfinite(residual); });
  CURVATURE_CHECK(is_finite, NumericalError,
                  "solve: a product or the solution is not finite; expected numbers, got NaN or "
                  "infinity after {}",
                  count_of(solution.report.iterations, "iteration"));
}

void run_solve(const SolveOptions& options, const Invocation& invocation) {
  check_operator_options(options.choice, options.solver.preconditioner);
  check_solver_options(options.solver, options.choice);
  const Problem problem = load_problem(options.problem);
  const at::Tensor rhs = read_vectors(options.rhs, problem);
  const at::Tensor start =
      options.start.empty() ? at::Tensor() : read_vectors(options.start, problem);
  const Plan plan = plan_of(options, problem, rhs);
  if (options.problem.dry_run) {
    print_plan(plan, problem, options.problem, invocation);
    return;
  }
  announce(plan, options.choice, options.problem);
  const EmpiricalRisk risk = make_risk(problem, options.problem);
  const Result result = compute(options, risk, rhs, start);
  check_finite(result.solution);
  // Made first: numbers that are not finite end the job before anything is written.
  const std::string json = to_text(
      with_origin(to_json(result, options, risk.space().size()), invocation, options.problem.seed));
  write_array(options.output, result.solution.x.contiguous(),
              origin(invocation, options.problem.seed));
  print_text(options.problem.json ? json : describe(result, options));
  const Termination termination = result.solution.report.termination;
  CURVATURE_CHECK(!options.require_convergence || termination == Termination::kConverged,
                  NumericalError, "solve: not solved to the tolerance; expected converged, got {}",
                  to_string(termination));
}

}  // namespace

void add_solve_command(CLI::App& tool, const Invocation& invocation) {
  constexpr const char* kGroup = "Solve";
  CLI::App* command = tool.add_subcommand("solve", "solves (A + damping I) X = B");
  auto options = std::make_shared<SolveOptions>();
  add_problem_options(*command, options->problem);
  add_operator_options(*command, options->choice);
  const auto add = [&](const std::string& name, auto& value, const std::string& type,
                       const std::string& description) {
    return command->add_option(name, value, description)->type_name(type)->group(kGroup);
  };
  add("--rhs", options->rhs, "FILE", "[D] or [D, K], parameters flattened and joined")->required();
  add_array_output(*command, "--output", options->output, "the solutions, shaped like --rhs")
      ->required()
      ->group(kGroup);
  add("--solver", options->solver.name, alternatives(solver_names()), "the method")
      ->required()
      ->check(one_of(solver_names()));
  add("--tolerance", options->solver.tolerance, "X",
      "relative residual of each column; 1e-6, or 1e-5 in float32")
      ->transform(real_number(0));
  add("--max-iterations", options->solver.max_iterations, "N", "of each column [1000]")
      ->transform(whole_number(0));
  add("--preconditioner", options->solver.preconditioner, alternatives(preconditioner_names()),
      "approximate inverse: of a model of the GGN plus damping")
      ->check(one_of(preconditioner_names()));
  add("--preconditioner-rank", options->solver.preconditioner_rank, "N",
      "of nystrom, which takes as many products first [100]")
      ->transform(whole_number(1));
  add("--step-size", options->solver.step_size, "X",
      "of the Neumann series; 1 / largest eigenvalue, estimated, by default")
      ->transform(real_number(0));
  add("--start", options->start, "FILE", "where to begin, shaped like --rhs; zero by default");
  command
      ->add_flag("--require-convergence", options->require_convergence,
                 "status 1 unless all columns converged")
      ->group(kGroup);
  command->callback([options, &invocation] { run_solve(*options, invocation); });
}

}  // namespace curvature::cli
