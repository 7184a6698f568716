#include <algorithm>
#include <optional>

#include <ATen/ops/cat.h>

#include <CLI/App.hpp>

#include <curvature/io/array.hpp>
#include <curvature/io/atomic_file.hpp>
#include <curvature/spectral/density.hpp>
#include <curvature/spectral/eigenpairs.hpp>

#include "cli/command.hpp"
#include "cli/operator_choice.hpp"
#include "cli/options.hpp"
#include "cli/plot.hpp"
#include "cli/problem.hpp"
#include "cli/progress_bar.hpp"
#include "cli/report.hpp"
#include "cli/validators.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

/// Independent of each other and of the operator's own draws.
enum RandomPurpose : uint64_t { kStartVectors = 1, kProbes = 2 };

struct SpectrumOptions {
  ProblemOptions problem;
  OperatorOptions choice;
  std::optional<int64_t> top;
  std::optional<int64_t> bottom;
  std::optional<double> tolerance;
  bool require_convergence = false;
  bool density = false;
  int64_t density_steps = 80;
  int64_t density_probes = 10;
  std::string density_scale = "linear";
  std::string vectors_output;
  std::string plot;
  std::string output;
};

/// What is computed, once the number of parameters is known.
struct Request {
  int64_t top = 0;
  int64_t bottom = 0;
  bool density = false;

  int64_t pairs() const { return top + bottom; }
};

struct Spectrum {
  EigenpairsResult pairs;
  std::optional<SpectralDensity> density;
  int64_t products = 0;
  double seconds = 0;
};

Request request_of(const SpectrumOptions& options, int64_t size) {
  constexpr int64_t kDefaultTop = 10;
  const int64_t top = options.bottom ? 0 : std::min(kDefaultTop, size);
  const Request request = {options.top.value_or(top), options.bottom.value_or(0),
                           options.density || !options.plot.empty()};
  for (const auto& [name, count] :
       {std::pair("--top", request.top), {"--bottom", request.bottom}}) {
    CURVATURE_CHECK(count <= size, OptionError,
                    "{}: more eigenvalues than there are; expected at most {}, got {}", name, size,
                    count);
  }
  CURVATURE_CHECK(request.pairs() > 0 || request.density, OptionError,
                  "spectrum: nothing to compute; expected --top, --bottom or --density, got none");
  CURVATURE_CHECK(request.pairs() > 0 || options.vectors_output.empty(), OptionError,
                  "--vectors-output: no eigenvectors to write; expected --top or --bottom above 0, "
                  "got 0");
  return request;
}

/// Products and memory, as `eigenpairs` and `spectral_density` document them; an iteration's
/// products are a lower bound.
Plan plan_of(const SpectrumOptions& options, const Request& request, const Problem& problem) {
  constexpr int64_t kDenseSize = 256, kDensePart = 4, kExtraVectors = 20;
  const int64_t size = problem.space.size(), pairs = request.pairs();
  const int64_t element = problem.model.parameters().front().tensor.element_size();
  const bool dense = size <= kDenseSize || pairs > size / kDensePart;
  Plan plan;
  plan.products = products_to_build(options.choice, size);
  if (pairs > 0) {
    const int64_t basis = 2 * pairs + kExtraVectors + 1;
    plan.job = fmt::format("{} extreme eigenvalues of {} ({} largest, {} smallest){}", pairs,
                           options.choice.name, request.top, request.bottom,
                           dense ? " by a dense eigendecomposition" : "");
    // A Krylov space of as many vectors as there are pairs, at least; then the residuals.
    plan.products += (dense ? size : pairs) + pairs;
    // Dense: the matrix, its symmetric part, and the eigenvectors.
    plan.memory_bytes = dense ? 8 * size * (3 * size + pairs) : element * size * (basis + pairs);
  }
  if (request.density) {
    const int64_t steps = std::min(options.density_steps, size);
    plan.job += fmt::format("{}spectral density of {} by {} of {}", pairs > 0 ? "; " : "",
                            options.choice.name, count_of(options.density_probes, "probe"),
                            count_of(steps, "step"));
    plan.products += options.density_probes * steps;
    plan.memory_bytes = std::max(plan.memory_bytes, element * size * (steps + 3));
  }
  plan.job += fmt::format(", {}{}", pairs > 0 && !dense ? "at least " : "",
                          count_of(plan.products, "product"));
  return plan;
}

Spectrum compute(const SpectrumOptions& options, const Request& request,
                 const EmpiricalRisk& risk) {
  const Stopwatch watch;
  ProgressBar bar;
  const RandomSource random(options.problem.seed);
  // One bar: a diagonal's own computation, then the iterations; not the batches of each product.
  const bool slow_to_build = products_to_build(options.choice, risk.space().size()) > 0;
  const OperatorPtr a = make_operator(risk, options.choice, options.problem,
                                      slow_to_build ? bar.observer() : Observer());
  Spectrum spectrum;
  if (request.pairs() > 0) {
    spectrum.pairs = eigenpairs(a, {.count = request.top,
                                    .count_bottom = request.bottom,
                                    .tolerance = options.tolerance,
                                    .random = random.derive(kStartVectors),
                                    .observer = bar.observer()});
  }
  if (request.density) {
    const DensityScale scale =
        options.density_scale == "log" ? DensityScale::kLog : DensityScale::kLinear;
    spectrum.density = spectral_density(a,
                                        {.num_steps = options.density_steps,
                                         .num_probes = options.density_probes,
                                         .observer = bar.observer()},
                                        random.derive(kProbes), {.scale = scale});
    spectrum.products = spectrum.density->products;
  }
  spectrum.products +=
      spectrum.pairs.products + products_to_build(options.choice, risk.space().size());
  spectrum.seconds = watch.seconds();
  return spectrum;
}

Json to_json(const Spectrum& spectrum, const SpectrumOptions& options, int64_t size) {
  Json report = {{"operator", options.choice.name},
                 {"num_parameters", size},
                 {"eigenvalues", spectrum.pairs.top.values},
                 {"residuals", spectrum.pairs.top.residuals},
                 {"bottom_eigenvalues", spectrum.pairs.bottom.values},
                 {"bottom_residuals", spectrum.pairs.bottom.residuals}};
  if (spectrum.density) {
    report["density"] = {{"scale", options.density_scale},
                         {"grid", spectrum.density->grid},
                         {"values", spectrum.density->values},
                         {"standard_errors", spectrum.density->standard_errors}};
  }
  report["report"] = {{"products", spectrum.products},
                      {"seconds", spectrum.seconds},
                      {"termination", to_string(spectrum.pairs.termination)},
                      {"dense", spectrum.pairs.dense}};
  return report;
}

std::string to_table(const std::string& title, const Eigenpairs& pairs) {
  if (pairs.values.empty()) return {};
  std::string text = fmt::format("{:<22}  residual\n", title);
  for (size_t i = 0; i < pairs.values.size(); ++i) {
    text += fmt::format("{:>22.10g}  {:.1e}\n", pairs.values[i], pairs.residuals[i]);
  }
  return text;
}

std::string describe(const Spectrum& spectrum, const SpectrumOptions& options) {
  std::string text = to_table("largest eigenvalues", spectrum.pairs.top) +
                     to_table("smallest eigenvalues", spectrum.pairs.bottom);
  if (spectrum.density) {
    const std::vector<double>& grid = spectrum.density->grid;
    text += fmt::format("density on [{:.4g}, {:.4g}]{}\n", grid.front(), grid.back(),
                        options.output.empty() ? " (its values: --output FILE.json)" : "");
  }
  return text + fmt::format("{} in {:.1f} s, {}\n", count_of(spectrum.products, "product"),
                            spectrum.seconds, to_string(spectrum.pairs.termination));
}

DensityCurve curve_of(const Spectrum& spectrum, const SpectrumOptions& options) {
  std::vector<double> eigenvalues = spectrum.pairs.top.values;
  eigenvalues.insert(eigenvalues.end(), spectrum.pairs.bottom.values.begin(),
                     spectrum.pairs.bottom.values.end());
  return {options.choice.name, spectrum.density->grid, spectrum.density->values,
          std::move(eigenvalues)};
}

void write_files(const Spectrum& spectrum, const Json& report, const SpectrumOptions& options,
                 const Invocation& invocation) {
  if (!options.vectors_output.empty()) {
    write_array(options.vectors_output,
                at::cat({spectrum.pairs.top.vectors, spectrum.pairs.bottom.vectors}, 1),
                origin(invocation, options.problem.seed));
  }
  if (!options.output.empty()) write_file_atomically(options.output, to_text(report));
  if (!options.plot.empty()) {
    plot_densities(options.plot, "Spectral density", {curve_of(spectrum, options)});
  }
}

void run_spectrum(const SpectrumOptions& options, const Invocation& invocation) {
  check_operator_options(options.choice);
  if (!options.plot.empty()) check_plot(options.plot);
  const Problem problem = load_problem(options.problem);
  const int64_t size = problem.space.size();
  const Request request = request_of(options, size);
  const Plan plan = plan_of(options, request, problem);
  if (options.problem.dry_run) {
    print_plan(plan, problem, options.problem, invocation);
    return;
  }
  announce(plan, options.choice, options.problem);
  const EmpiricalRisk risk = make_risk(problem, options.problem);
  const Spectrum spectrum = compute(options, request, risk);
  const Json report =
      with_origin(to_json(spectrum, options, size), invocation, options.problem.seed);
  write_files(spectrum, report, options, invocation);
  print_text(options.problem.json ? to_text(report) : describe(spectrum, options));
  CURVATURE_CHECK(
      !options.require_convergence || spectrum.pairs.termination == Termination::kConverged,
      NumericalError, "spectrum: the eigenvalues did not converge; expected converged, got {}",
      to_string(spectrum.pairs.termination));
}

}  // namespace

void add_spectrum_command(CLI::App& tool, const Invocation& invocation) {
  constexpr const char* kGroup = "Spectrum";
  CLI::App* command =
      tool.add_subcommand("spectrum", "extreme eigenvalues with residuals, spectral density");
  auto options = std::make_shared<SpectrumOptions>();
  add_problem_options(*command, options->problem);
  add_operator_options(*command, options->choice);
  const auto add = [&](const std::string& name, auto& value, const std::string& type,
                       const std::string& description) {
    return command->add_option(name, value, description)->type_name(type)->group(kGroup);
  };
  add("--top", options->top, "K", "largest eigenvalues; 10 unless --bottom is given")
      ->transform(whole_number(0));
  add("--bottom", options->bottom, "K", "smallest eigenvalues")->transform(whole_number(0));
  add("--tolerance", options->tolerance, "X",
      "largest residual, relative to the norm; 1e-8, or 1e-5 in float32")
      ->transform(real_number(0));
  command
      ->add_flag("--require-convergence", options->require_convergence,
                 "status 1 unless all eigenvalues converged")
      ->group(kGroup);
  CLI::Option* density =
      command->add_flag("--density", options->density, "spectral density")->group(kGroup);
  add("--density-steps", options->density_steps, "M", "Lanczos steps of a probe")
      ->transform(whole_number(1))
      ->needs(density)
      ->capture_default_str();
  add("--density-probes", options->density_probes, "M", "random start vectors")
      ->transform(whole_number(1))
      ->needs(density)
      ->capture_default_str();
  add("--density-scale", options->density_scale, "linear|log",
      "grid of the eigenvalue l, or of |l| in logarithmic spacing")
      ->check(one_of({"linear", "log"}))
      ->needs(density)
      ->capture_default_str();
  add_array_output(*command, "--vectors-output", options->vectors_output,
                   "eigenvectors [D, top + bottom]")
      ->group(kGroup);
  add("--plot", options->plot, "FILE", "picture of the density (.svg or .png)")
      ->check(output_file({".svg", ".png"}));
  add("--output", options->output, "FILE", "the report (.json)")->check(output_file({".json"}));
  command->callback([options, &invocation] { run_spectrum(*options, invocation); });
}

}  // namespace curvature::cli
