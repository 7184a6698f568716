#include <algorithm>
#include <cmath>
#include <functional>

#include <CLI/App.hpp>

#include <curvature/io/array.hpp>
#include <curvature/spectral/exact.hpp>
#include <curvature/spectral/hutch_plus_plus.hpp>
#include <curvature/spectral/hutchinson.hpp>
#include <curvature/spectral/stochastic_lanczos.hpp>
#include <curvature/spectral/xtrace.hpp>

#include "cli/command.hpp"
#include "cli/operator_choice.hpp"
#include "cli/options.hpp"
#include "cli/problem.hpp"
#include "cli/progress_bar.hpp"
#include "cli/report.hpp"
#include "cli/validators.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

constexpr const char* kExact = "exact";
constexpr const char* kLanczos = "slq";
constexpr const char* kDiagonal = "diagonal";
constexpr const char* kEffectiveDimension = "effective-dimension";

struct EstimateCommandOptions {
  ProblemOptions problem;
  OperatorOptions choice;
  std::string quantity;
  std::string method;
  std::optional<int64_t> samples;  ///< products, 100 if empty; probes for slq, 30 if empty
  std::optional<double> relative_error;
  std::string probe = "rademacher";
  std::optional<int64_t> lanczos_steps;
  std::string output;

  bool is_exact() const { return method == kExact; }
  bool is_lanczos() const { return method == kLanczos; }
};

/// A number, or a diagonal with the root mean square of its standard errors.
struct Result {
  Estimate estimate = {};
  at::Tensor diagonal = {};
  double seconds = 0;
};

/// How one method estimates one quantity.
struct Method {
  std::string quantity;
  std::string name;
  std::function<Result(const OperatorPtr&, const EstimateCommandOptions&, const Observer&)> run;
};

// --- what the library needs to know ------------------------------------------------------------

Probe probe_of(const EstimateCommandOptions& options) {
  if (options.probe == "gaussian") return Probe::kGaussian;
  return options.probe == "sphere" ? Probe::kSphere : Probe::kRademacher;
}

EstimateOptions sampling(const EstimateCommandOptions& options, const Observer& observer) {
  return {.samples = options.samples.value_or(100),
          .probe = probe_of(options),
          .relative_error = options.relative_error,
          .random = RandomSource(options.problem.seed).derive(1),
          .observer = observer};
}

StochasticLanczosOptions lanczos(const EstimateCommandOptions& options, const Observer& observer) {
  return {.samples = options.samples.value_or(30),
          .num_steps = options.lanczos_steps.value_or(80),
          .probe = probe_of(options),
          .relative_error = options.relative_error,
          .random = RandomSource(options.problem.seed).derive(1),
          .observer = observer};
}

Result number(Estimate estimate) { return {.estimate = std::move(estimate)}; }

Result vector(DiagonalEstimate diagonal) {
  Result result{.estimate = {.samples = diagonal.samples,
                             .products = diagonal.products,
                             .exact = diagonal.exact,
                             .termination = diagonal.termination},
                .diagonal = diagonal.values};
  if (diagonal.standard_errors.defined()) {
    const auto size = static_cast<double>(diagonal.values.numel());
    result.estimate.standard_error =
        diagonal.standard_errors.norm().item<double>() / std::sqrt(size);
  }
  return result;
}

const std::vector<Method>& methods() {
  using O = EstimateCommandOptions;
  using A = OperatorPtr;
  static const std::vector<Method> table = {
      {"trace", "hutchinson",
       [](const A& a, const O& o, const Observer& s) {
         return number(hutchinson_trace(a, sampling(o, s)));
       }},
      {"trace", "hutch++",
       [](const A& a, const O& o, const Observer& s) {
         return number(hutch_plus_plus_trace(a, sampling(o, s)));
       }},
      {"trace", "xtrace",
       [](const A& a, const O& o, const Observer& s) { return number(xtrace(a, sampling(o, s))); }},
      {"trace", kLanczos,
       [](const A& a, const O& o, const Observer& s) {
         return number(slq_trace_of_function(
             a, [](double x) { return x; }, lanczos(o, s)));
       }},
      {"trace", kExact,
       [](const A& a, const O&, const Observer& s) {
         return number(exact_trace(a, {.observer = s}));
       }},
      {kDiagonal, "hutchinson",
       [](const A& a, const O& o, const Observer& s) {
         return vector(hutchinson_diagonal(a, sampling(o, s)));
       }},
      {kDiagonal, "xdiag",
       [](const A& a, const O& o, const Observer& s) { return vector(xdiag(a, sampling(o, s))); }},
      {kDiagonal, kExact,
       [](const A& a, const O&, const Observer& s) {
         return vector(exact_diagonal(a, {.observer = s}));
       }},
      {"frobenius", "hutchinson",
       [](const A& a, const O& o, const Observer& s) {
         return number(hutchinson_frobenius_norm(a, sampling(o, s)).norm);
       }},
      {"frobenius", "hutch++",
       [](const A& a, const O& o, const Observer& s) {
         return number(hutch_plus_plus_frobenius_norm(a, sampling(o, s)).norm);
       }},
      {"frobenius", kExact,
       [](const A& a, const O&, const Observer& s) {
         return number(exact_frobenius_norm(a, {.observer = s}).norm);
       }},
      {"logdet", kLanczos,
       [](const A& a, const O& o, const Observer& s) {
         return number(slq_log_determinant(a, lanczos(o, s)));
       }},
      {"logdet", kExact,
       [](const A& a, const O&, const Observer& s) {
         return number(exact_log_determinant(a, {.observer = s}));
       }},
      {kEffectiveDimension, kLanczos,
       [](const A& a, const O& o, const Observer& s) {
         return number(slq_effective_dimension(a, {o.choice.damping}, lanczos(o, s)).front());
       }},
      {kEffectiveDimension, kExact,
       [](const A& a, const O& o, const Observer& s) {
         return number(exact_effective_dimension(a, {o.choice.damping}, {.observer = s}).front());
       }},
  };
  return table;
}

/// Each once, in the order of the table.
std::vector<std::string> unique(const std::function<const std::string&(const Method&)>& name) {
  std::vector<std::string> names;
  for (const Method& method : methods()) {
    if (std::find(names.begin(), names.end(), name(method)) == names.end()) {
      names.push_back(name(method));
    }
  }
  return names;
}

std::vector<std::string> quantity_names() {
  return unique([](const Method& method) -> const std::string& { return method.quantity; });
}

std::vector<std::string> method_names() {
  return unique([](const Method& method) -> const std::string& { return method.name; });
}

std::vector<std::string> methods_for(const std::string& quantity) {
  std::vector<std::string> names;
  for (const Method& method : methods()) {
    if (method.quantity == quantity) names.push_back(method.name);
  }
  return names;
}

const Method& method_of(const EstimateCommandOptions& options) {
  const auto found = std::find_if(methods().begin(), methods().end(), [&](const Method& method) {
    return method.quantity == options.quantity && method.name == options.method;
  });
  CURVATURE_CHECK(found != methods().end(), OptionError,
                  "--method: cannot estimate the {}; expected {}, got {}", options.quantity,
                  enumerate(methods_for(options.quantity)), options.method);
  return *found;
}

void check_options(const EstimateCommandOptions& options) {
  check_operator_options(options.choice);
  method_of(options);
  CURVATURE_CHECK(options.is_lanczos() || !options.lanczos_steps, OptionError,
                  "--lanczos-steps belongs to --method slq; got {}", options.method);
  CURVATURE_CHECK(!options.is_exact() || (!options.samples && !options.relative_error), OptionError,
                  "--samples and --relative-error belong to a randomised --method; expected none, "
                  "got --method exact");
  const bool needs_output = options.quantity == kDiagonal;
  CURVATURE_CHECK(needs_output == !options.output.empty(), OptionError,
                  "--output: expected a file for the diagonal and none for a number, got {} for "
                  "the {}",
                  options.output.empty() ? "none" : "one", options.quantity);
  CURVATURE_CHECK(options.quantity != kEffectiveDimension || options.choice.damping > 0,
                  OptionError,
                  "--damping: the effective dimension is tr A (A + X I)^-1; expected X above 0, "
                  "got {}",
                  options.choice.damping);
}

/// The operator that is estimated. The diagonal and the trace of a GGN have a closed form, and an
/// effective dimension takes the damping for itself.
OperatorOptions choice_of(const EstimateCommandOptions& options) {
  OperatorOptions choice = options.choice;
  const bool diagonal_will_do = options.quantity == kDiagonal || options.quantity == "trace";
  if (options.is_exact() && diagonal_will_do && choice.name == "ggn") {
    choice.name = "ggn-diagonal";
    choice.block_diagonal.clear();
  }
  if (options.quantity == kEffectiveDimension) choice.damping = 0;
  return choice;
}

Plan plan_of(const EstimateCommandOptions& options, const Problem& problem) {
  const int64_t size = problem.space.size();
  const int64_t element = problem.model.parameters().front().tensor.element_size();
  const OperatorOptions choice = choice_of(options);
  const bool closed = is_diagonal(choice) || is_made_of_blocks(choice);
  Plan plan;
  if (options.is_exact()) {
    const bool needs_spectrum =
        options.quantity == "logdet" || options.quantity == kEffectiveDimension;
    plan.products = closed ? 0 : size;
    plan.memory_bytes = closed ? element * size : 8 * size * (needs_spectrum ? 3 * size : 32);
    plan.product_per_parameter = !closed;
  } else if (options.is_lanczos()) {
    const int64_t steps = std::min(lanczos(options, {}).num_steps, size);
    plan.products = lanczos(options, {}).samples * steps;
    plan.memory_bytes = element * size * (steps + 3);
  } else {
    const int64_t samples = sampling(options, {}).samples;
    const bool keeps_a_basis = options.method != "hutchinson";
    plan.products = keeps_a_basis ? std::min(samples, size) : samples;
    plan.memory_bytes = element * size * (keeps_a_basis ? 3 * plan.products : 32);
  }
  plan.products += products_to_build(choice, size);
  plan.job = fmt::format("{} of {} by {}, {}{}", options.quantity, choice.name, options.method,
                         options.is_exact() ? "" : "at most ", count_of(plan.products, "product"));
  return plan;
}

Result compute(const EstimateCommandOptions& options, const EmpiricalRisk& risk) {
  const Stopwatch watch;
  ProgressBar bar;
  const OperatorOptions choice = choice_of(options);
  // One bar: a diagonal's own computation, then the samples; not the batches of each product.
  const OperatorPtr a = make_operator(risk, choice, options.problem,
                                      is_diagonal(choice) ? bar.observer() : Observer());
  Result result = method_of(options).run(a, options, bar.observer());
  result.estimate.products += products_to_build(choice, risk.space().size());
  result.seconds = watch.seconds();
  return result;
}

/// In the units of `--samples`: products, or probes.
int64_t samples_of(const Result& result, const EstimateCommandOptions& options) {
  if (options.is_exact()) return 0;
  return options.is_lanczos() ? result.estimate.samples : result.estimate.products;
}

Json to_json(const Result& result, const EstimateCommandOptions& options, int64_t size) {
  const Estimate& estimate = result.estimate;
  Json json = {{"operator", options.choice.name},   {"num_parameters", size},
               {"damping", options.choice.damping}, {"quantity", options.quantity},
               {"method", options.method},          {"samples", samples_of(result, options)}};
  if (!result.diagonal.defined()) json["value"] = estimate.value;
  if (estimate.standard_error) json["standard_error"] = *estimate.standard_error;
  json["exact"] = estimate.exact;
  json["products"] = estimate.products;
  json["termination"] = to_string(estimate.termination);
  if (result.diagonal.defined()) json["output"] = options.output;
  json["seconds"] = result.seconds;
  return json;
}

std::string describe(const Result& result, const EstimateCommandOptions& options) {
  const Estimate& estimate = result.estimate;
  std::string text = result.diagonal.defined()
                         ? fmt::format("{} in {}", options.quantity, options.output)
                         : fmt::format("{} {:.10g}", options.quantity, estimate.value);
  if (estimate.standard_error) {
    text += fmt::format(", standard error {:.2g}{}", *estimate.standard_error,
                        result.diagonal.defined() ? " (root mean square)" : "");
  }
  if (estimate.exact) text += ", exact";
  if (estimate.termination != Termination::kConverged) {
    text += ", the requested error was not reached; expected more --samples";
  }
  return text +
         fmt::format("\n{} in {:.1f} s\n", count_of(estimate.products, "product"), result.seconds);
}

void run_estimate(const EstimateCommandOptions& options, const Invocation& invocation) {
  check_options(options);
  const Problem problem = load_problem(options.problem);
  const Plan plan = plan_of(options, problem);
  if (options.problem.dry_run) {
    print_plan(plan, problem, options.problem, invocation);
    return;
  }
  announce(plan, choice_of(options), options.problem);
  const EmpiricalRisk risk = make_risk(problem, options.problem);
  const Result result = compute(options, risk);
  // Made first: numbers that are not finite end the job before anything is written.
  const std::string json = to_text(
      with_origin(to_json(result, options, risk.space().size()), invocation, options.problem.seed));
  if (result.diagonal.defined()) {
    write_array(options.output, result.diagonal, origin(invocation, options.problem.seed));
  }
  print_text(options.problem.json ? json : describe(result, options));
}

}  // namespace

void add_estimate_command(CLI::App& tool, const Invocation& invocation) {
  constexpr const char* kGroup = "Estimate";
  CLI::App* command =
      tool.add_subcommand("estimate", "trace, diagonal, norm, determinant; randomised or exact");
  auto options = std::make_shared<EstimateCommandOptions>();
  add_problem_options(*command, options->problem);
  add_operator_options(*command, options->choice);
  const auto add = [&](const std::string& name, auto& value, const std::string& type,
                       const std::string& description) {
    return command->add_option(name, value, description)->type_name(type)->group(kGroup);
  };
  add("--quantity", options->quantity, alternatives(quantity_names()), "of the damped operator")
      ->required()
      ->check(one_of(quantity_names()));
  add("--method", options->method, alternatives(method_names()), "how it is found")
      ->required()
      ->check(one_of(method_names()));
  add("--samples", options->samples, "M", "products that may be used [100]; probes of slq [30]")
      ->transform(whole_number(1));
  add("--relative-error", options->relative_error, "X",
      "stop when the standard error is at most this part of the value")
      ->transform(real_number(0));
  add("--probe", options->probe, "rademacher|gaussian|sphere", "distribution of random vectors")
      ->check(one_of({"rademacher", "gaussian", "sphere"}))
      ->capture_default_str();
  add("--lanczos-steps", options->lanczos_steps, "M", "products of a probe of slq [80]")
      ->transform(whole_number(1));
  add_array_output(*command, "--output", options->output, "the diagonal [D]")->group(kGroup);
  command->callback([options, &invocation] { run_estimate(*options, invocation); });
}

}  // namespace curvature::cli
