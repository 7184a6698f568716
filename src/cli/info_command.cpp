#include <algorithm>
#include <cmath>
#include <map>

#include <CLI/App.hpp>

#include <curvature/layerwise/kfac.hpp>

#include "cli/command.hpp"
#include "cli/options.hpp"
#include "cli/problem.hpp"
#include "cli/progress_bar.hpp"
#include "cli/report.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

struct Facts {
  double loss;
  double gradient_norm;
  std::map<std::string, std::string> treatments;  ///< of the parameters to differentiate
};

Facts compute_facts(const EmpiricalRisk& risk) {
  ProgressBar bar;
  double square = 0;
  const double loss = risk.loss(bar.observer());
  for (const at::Tensor& part : risk.gradient(bar.observer())) {
    const auto norm = part.to(at::kDouble).norm().item<double>();
    square += norm * norm;
  }
  Facts facts{.loss = loss, .gradient_norm = std::sqrt(square), .treatments = {}};
  for (const ParameterTreatment& parameter : describe_layers(risk)) {
    facts.treatments[parameter.name] = parameter.treatment;
  }
  return facts;
}

/// What layer-wise operators do with a parameter, or `frozen`.
std::string treatment_of(const Facts& facts, const std::string& name) {
  const auto found = facts.treatments.find(name);
  return found == facts.treatments.end() ? "frozen" : found->second;
}

Json list_parameters(const EmpiricalRisk& risk, const Facts& facts, bool frozen) {
  Json list = Json::array();
  for (const auto& [name, tensor] : risk.model().parameters()) {
    if ((facts.treatments.count(name) == 0) != frozen) continue;
    const std::string treatment = treatment_of(facts, name);
    list.push_back({{"name", name}, {"shape", tensor.sizes().vec()}, {"treatment", treatment}});
  }
  return list;
}

Json to_json(const EmpiricalRisk& risk, const Facts& facts) {
  return {{"num_parameters", risk.space().size()},
          {"parameters", list_parameters(risk, facts, false)},
          {"frozen_parameters", list_parameters(risk, facts, true)},
          {"num_data", risk.num_examples()},
          {"output_shape", risk.output_shape()},
          {"loss", facts.loss},
          {"gradient_norm", facts.gradient_norm}};
}

std::string to_table(const EmpiricalRisk& risk, const Facts& facts, const ProblemOptions& options) {
  const auto& parameters = risk.model().parameters();
  size_t name_width = 4, shape_width = 5;
  for (const auto& [name, tensor] : parameters) {
    name_width = std::max(name_width, name.size());
    shape_width = std::max(shape_width, detail::to_string(tensor.sizes()).size());
  }
  std::string text = fmt::format("{:{}}  {:{}}  {:>10}  treatment\n", "name", name_width, "shape",
                                 shape_width, "numbers");
  for (const auto& [name, tensor] : parameters) {
    text += fmt::format("{:{}}  {:{}}  {:>10}  {}\n", name, name_width,
                        detail::to_string(tensor.sizes()), shape_width, tensor.numel(),
                        treatment_of(facts, name));
  }
  return text + fmt::format(
                    "\n{} to differentiate; {}, output {} for each\n"
                    "{} ({}): {:.6g}, gradient norm {:.6g}\n",
                    count_of(risk.space().size(), "number"),
                    count_of(risk.num_examples(), "example"),
                    detail::to_string(risk.output_shape()), options.loss, options.reduction,
                    facts.loss, facts.gradient_norm);
}

void run_info(const ProblemOptions& options, const Invocation& invocation) {
  const Problem problem = load_problem(options);
  if (options.dry_run) {
    print_plan({"loss and gradient", 0, 0}, problem, options, invocation);
    return;
  }
  const EmpiricalRisk risk = make_risk(problem, options);
  const Facts facts = compute_facts(risk);
  if (options.json) {
    print_json(with_origin(to_json(risk, facts), invocation, options.seed));
  } else {
    print_text(to_table(risk, facts, options));
  }
}

}  // namespace

void add_info_command(CLI::App& tool, const Invocation& invocation) {
  CLI::App* command =
      tool.add_subcommand("info", "parameters and how each is treated, loss, gradient norm");
  auto options = std::make_shared<ProblemOptions>();
  add_problem_options(*command, *options);
  command->callback([options, &invocation] { run_info(*options, invocation); });
}

}  // namespace curvature::cli
