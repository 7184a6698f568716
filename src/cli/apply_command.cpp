#include <CLI/App.hpp>

#include <curvature/io/array.hpp>

#include "cli/command.hpp"
#include "cli/operator_choice.hpp"
#include "cli/options.hpp"
#include "cli/problem.hpp"
#include "cli/progress_bar.hpp"
#include "cli/report.hpp"
#include "core/check.hpp"
#include "core/finite.hpp"

namespace curvature::cli {
namespace {

struct ApplyOptions {
  ProblemOptions problem;
  OperatorOptions choice;
  std::string vectors;
  std::string output;
  bool adjoint = false;
};

Plan plan_of(const ApplyOptions& options, const Problem& problem, const at::Tensor& vectors) {
  const int64_t products =
      columns_of(vectors) + products_to_build(options.choice, problem.space.size());
  return {.job = fmt::format("{} of {}", count_of(products, "product"), options.choice.name),
          .products = products,
          .memory_bytes = 2 * vectors.numel() * vectors.element_size()};
}

at::Tensor compute(const ApplyOptions& options, const EmpiricalRisk& risk,
                   const at::Tensor& vectors) {
  ProgressBar bar;
  const OperatorPtr a = make_operator(risk, options.choice, options.problem, bar.observer());
  return options.adjoint ? a->apply_adjoint(vectors) : a->apply(vectors);
}

void run_apply(const ApplyOptions& options, const Invocation& invocation) {
  check_operator_options(options.choice);
  const Problem problem = load_problem(options.problem);
  const at::Tensor vectors = read_vectors(options.vectors, problem);
  const Plan plan = plan_of(options, problem, vectors);
  if (options.problem.dry_run) {
    print_plan(plan, problem, options.problem, invocation);
    return;
  }
  announce(plan, options.choice, options.problem);
  const Stopwatch watch;
  const EmpiricalRisk risk = make_risk(problem, options.problem);
  const at::Tensor result = compute(options, risk, vectors);
  CURVATURE_CHECK(detail::is_finite(result), NumericalError,
                  "{}: a product is not finite; expected numbers, got NaN or infinity",
                  options.choice.name);
  write_array(options.output, result, origin(invocation, options.problem.seed));
  const int64_t columns = columns_of(vectors);
  if (options.problem.json) {
    print_json(with_origin({{"operator", options.choice.name},
                            {"num_parameters", risk.space().size()},
                            {"columns", columns},
                            {"output", options.output},
                            {"seconds", watch.seconds()}},
                           invocation, options.problem.seed));
    return;
  }
  print_text(fmt::format("{} of {} in {} ({:.1f} s)\n", count_of(columns, "product"),
                         options.choice.name, options.output, watch.seconds()));
}

}  // namespace

void add_apply_command(CLI::App& tool, const Invocation& invocation) {
  CLI::App* command = tool.add_subcommand("apply", "product of an operator with vectors");
  auto options = std::make_shared<ApplyOptions>();
  add_problem_options(*command, options->problem);
  add_operator_options(*command, options->choice);
  command
      ->add_option("--vectors", options->vectors, "[D] or [D, K], parameters flattened and joined")
      ->type_name("FILE")
      ->required();
  add_array_output(*command, "--output", options->output, "the products, shaped like the vectors")
      ->required();
  command->add_flag("--adjoint", options->adjoint, "multiply by the transposed operator");
  command->callback([options, &invocation] { run_apply(*options, invocation); });
}

}  // namespace curvature::cli
