#include <algorithm>
#include <numeric>

#include "cli/demo.hpp"
#include "cli/plot.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

DensityCurve curve_of(const std::string& label, const DemoSpectrum& spectrum) {
  return {label, spectrum.density.grid, spectrum.density.values, spectrum.pairs.top.values};
}

/// (1/n) tr A, the mean of A's eigenvalues.
double mean_eigenvalue(const SpectralDensity& density) {
  double mean = 0;
  for (const Quadrature& probe : density.quadratures) {
    mean += std::inner_product(probe.nodes.begin(), probe.nodes.end(), probe.weights.begin(), 0.0);
  }
  return mean / static_cast<double>(density.quadratures.size());
}

Json to_json(const DemoSpectrum& spectrum) {
  return {{"eigenvalues", spectrum.pairs.top.values},
          {"residuals", spectrum.pairs.top.residuals},
          {"density",
           {{"grid", spectrum.density.grid},
            {"values", spectrum.density.values},
            {"standard_errors", spectrum.density.standard_errors}}},
          {"report",
           {{"products", spectrum.pairs.products + spectrum.density.products},
            {"seconds", spectrum.seconds},
            {"termination", to_string(spectrum.pairs.termination)}}}};
}

Json to_json(const Outliers& outliers) {
  return {{"gap_before_last", outliers.gap_before_last},
          {"gap_after_last", outliers.gap_after_last},
          {"widest_after", outliers.widest_after},
          {"widest_gap", outliers.widest_gap},
          {"trace_share", outliers.trace_share}};
}

std::string table(const DemoResult& result) {
  const Eigenpairs &hessian = result.hessian.pairs.top, &ggn = result.ggn.pairs.top;
  std::string text = "      Hessian   residual          GGN   residual\n";
  for (size_t i = 0; i < hessian.values.size(); ++i) {
    text += fmt::format("{:>3}{:>10.4f}    {:.1e}   {:>10.4f}    {:.1e}\n", i + 1,
                        hessian.values[i], hessian.residuals[i], ggn.values[i], ggn.residuals[i]);
  }
  return text;
}

/// What the numbers say about the outliers that a problem with C classes is known for.
std::string describe_outliers(const DemoResult& result) {
  const int64_t classes = result.num_classes;
  const Outliers outliers = find_outliers(result.ggn, classes, result.num_parameters);
  constexpr double kClearGap = 1.5;
  const bool expected = outliers.widest_after == classes || outliers.widest_after == classes - 1;
  const std::string verdict =
      expected && outliers.widest_gap >= kClearGap
          ? fmt::format("The {} largest stand out from the rest by a factor of {:.2f}.",
                        outliers.widest_after, outliers.widest_gap)
          : fmt::format(
                "Here no clear gap separates them from the rest: the widest one among the "
                "largest {} is a\nfactor of {:.2f} after number {}.",
                result.ggn.pairs.top.values.size(), outliers.widest_gap, outliers.widest_after);
  return fmt::format(
      "With {0} classes, {1} or {0} large eigenvalues are expected. The {0} largest of the GGN's "
      "{2}\ncarry {3:.0f} % of its trace; number {1} is {4:.2f} times number {0}, which is {5:.2f} "
      "times number {6}.\n{7}\n",
      classes, classes - 1, result.num_parameters, 100 * outliers.trace_share,
      outliers.gap_before_last, outliers.gap_after_last, classes + 1, verdict);
}

std::string describe_training(const DemoResult& result) {
  const TrainingRecords& records = result.records;
  const auto highest =
      std::max_element(records.top_eigenvalues.begin(), records.top_eigenvalues.end());
  return fmt::format(
      "In training, the Hessian's largest eigenvalue went from {:.3g} to {:.3g}; the highest seen "
      "was {:.3g} at\nstep {} of {}.\n",
      records.top_eigenvalues.front(), records.top_eigenvalues.back(), *highest,
      records.steps[static_cast<size_t>(highest - records.top_eigenvalues.begin())],
      records.steps.back());
}

/// Commands that work in the folder where the demo was called.
std::string next_commands(const std::string& program, const std::filesystem::path& folder) {
  const std::string tool = shell_quoted(program);
  const auto file = [&folder](const char* name) { return shell_quoted(folder / name); };
  const std::string problem = fmt::format("--model {} --inputs {} --targets {}", file("model.pt"),
                                          file("inputs.npy"), file("targets.npy"));
  return fmt::format(
      "Next:\n"
      "  {0} info {1}\n"
      "  {0} gradient {1} --output {2}\n"
      "  {0} apply {1} --operator ggn --vectors {2} --output {3}\n"
      "  {0} spectrum {1} --operator hessian --parameters 'linear*' --plot {4}\n",
      tool, problem, file("gradient.npy"), file("product.npy"), file("linear.svg"));
}

}  // namespace

Outliers find_outliers(const DemoSpectrum& spectrum, int64_t num_classes, int64_t num_parameters) {
  const std::vector<double>& values = spectrum.pairs.top.values;
  const auto gap_after = [&values](int64_t count) {
    const auto i = static_cast<size_t>(count);
    return values[i - 1] / values[i];
  };
  Outliers outliers{.gap_before_last = gap_after(num_classes - 1),
                    .gap_after_last = gap_after(num_classes)};
  for (int64_t count = 1; count < static_cast<int64_t>(values.size()); ++count) {
    if (gap_after(count) <= outliers.widest_gap) continue;
    outliers.widest_gap = gap_after(count);
    outliers.widest_after = count;
  }
  const double trace = mean_eigenvalue(spectrum.density) * static_cast<double>(num_parameters);
  outliers.trace_share = std::accumulate(values.begin(), values.begin() + num_classes, 0.0) / trace;
  return outliers;
}

void draw_demo(const DemoResult& result, const std::filesystem::path& folder) {
  const TrainingRecords& records = result.records;
  const std::vector<double> steps(records.steps.begin(), records.steps.end());
  for (const std::string extension : {".svg", ".png"}) {
    plot_densities(folder / ("spectrum" + extension),
                   fmt::format("{}: curvature of a convolutional network with {} parameters",
                               result.dataset, result.num_parameters),
                   {curve_of("Hessian", result.hessian), curve_of("GGN", result.ggn)});
    plot_lines(folder / ("training" + extension),
               fmt::format("{}: curvature during training", result.dataset), "training step",
               {{"largest eigenvalue", false, {{"Hessian", steps, records.top_eigenvalues}}},
                {"training loss", true, {{"cross-entropy", steps, records.losses}}}});
  }
}

Json demo_json(const DemoResult& result) {
  return {
      {"dataset", result.dataset},
      {"num_parameters", result.num_parameters},
      {"num_classes", result.num_classes},
      {"num_data", result.num_data},
      {"loss", result.loss},
      {"training",
       {{"num_data", result.num_train},
        {"epochs", result.training.epochs},
        {"batch_size", result.training.batch_size},
        {"learning_rate", result.training.learning_rate},
        {"momentum", result.training.momentum},
        {"train_accuracy", result.train_accuracy},
        {"test_accuracy", result.test_accuracy},
        {"steps", result.records.steps},
        {"losses", result.records.losses},
        {"top_eigenvalues", result.records.top_eigenvalues},
        {"residuals", result.records.residuals},
        {"seconds", result.training_seconds}}},
      {"hessian", to_json(result.hessian)},
      {"ggn", to_json(result.ggn)},
      {"outliers", to_json(find_outliers(result.ggn, result.num_classes, result.num_parameters))},
      {"seconds", result.seconds}};
}

std::string describe_demo(const DemoResult& result, const DemoOptions& options,
                          const std::string& program) {
  return fmt::format(
      "{}: a convolutional network with {} parameters, trained on {} images in {:.0f} s;\n"
      "{:.1f} % of the test images are classified correctly.\n\n"
      "Largest eigenvalues of the mean loss of {} training images:\n\n{}\n{}{}\n"
      "In {}: report.json, spectrum.svg and .png, training.svg and .png,\n"
      "model.pt, inputs.npy, targets.npy ({:.0f} s in all).\n\n{}",
      result.dataset, result.num_parameters, result.num_train, result.training_seconds,
      100 * result.test_accuracy, result.num_data, table(result), describe_outliers(result),
      describe_training(result), options.output.string(), result.seconds,
      next_commands(program, options.output));
}

}  // namespace curvature::cli
