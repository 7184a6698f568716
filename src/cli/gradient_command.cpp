#include <CLI/App.hpp>

#include <curvature/io/array.hpp>

#include "cli/command.hpp"
#include "cli/options.hpp"
#include "cli/problem.hpp"
#include "cli/progress_bar.hpp"
#include "cli/report.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

struct GradientOptions {
  ProblemOptions problem;
  std::string output;
};

/// The gradient in the flat view, `[D]`.
at::Tensor flat_gradient(const EmpiricalRisk& risk) {
  ProgressBar bar;
  TensorList columns;
  for (const at::Tensor& part : risk.gradient(bar.observer()))
    columns.push_back(part.unsqueeze(-1));
  return risk.space().join(columns).squeeze(-1);
}

void run_gradient(const GradientOptions& options, const Invocation& invocation) {
  const Problem problem = load_problem(options.problem);
  if (options.problem.dry_run) {
    const int64_t bytes =
        problem.space.size() * problem.model.parameters().front().tensor.element_size();
    print_plan({"the gradient", 0, bytes}, problem, options.problem, invocation);
    return;
  }
  const Stopwatch watch;
  const EmpiricalRisk risk = make_risk(problem, options.problem);
  const at::Tensor gradient = flat_gradient(risk);
  write_array(options.output, gradient, origin(invocation, options.problem.seed));
  const auto norm = gradient.to(at::kDouble).norm().item<double>();
  if (options.problem.json) {
    print_json(with_origin({{"num_parameters", risk.space().size()},
                            {"gradient_norm", norm},
                            {"output", options.output},
                            {"seconds", watch.seconds()}},
                           invocation, options.problem.seed));
    return;
  }
  print_text(fmt::format("gradient [{}] of norm {:.6g} in {} ({:.1f} s)\n", risk.space().size(),
                         norm, options.output, watch.seconds()));
}

}  // namespace

void add_gradient_command(CLI::App& tool, const Invocation& invocation) {
  CLI::App* command = tool.add_subcommand("gradient", "gradient of the reduced loss");
  auto options = std::make_shared<GradientOptions>();
  add_problem_options(*command, options->problem);
  add_array_output(*command, "--output", options->output, "the gradient, [D]")->required();
  command->callback([options, &invocation] { run_gradient(*options, invocation); });
}

}  // namespace curvature::cli
