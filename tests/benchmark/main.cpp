// Times curvature products in seconds and in gradients of the same batch, on workloads exported as
// TorchScript: DIR/NAME/{model.pt, inputs.npy, targets.npy}, mean cross-entropy with the classes
// last. Writes rows {library, workload, operation, phase, threads, median_s, min_s, repeats,
// peak_rss_mb, value}; `value` lets another program check that it computed the same.

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/stack.h>

#include <CLI/CLI.hpp>
#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <curvature/core/error.hpp>
#include <curvature/io/npy.hpp>
#include <curvature/layerwise/damping.hpp>
#include <curvature/layerwise/kfac_estimator.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/model/empirical_risk.hpp>
#include <curvature/model/torchscript.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/solvers/conjugate_gradient.hpp>
#include <curvature/solvers/minres.hpp>
#include <curvature/spectral/lanczos.hpp>

namespace {

using namespace curvature;
using Json = nlohmann::json;

constexpr int kMinRepeats = 3;
constexpr int kMaxRepeats = 30;

struct Options {
  std::string folder;
  std::vector<std::string> workloads = {"mlp", "conv", "cnn", "gpt"};
  std::vector<std::string> operations = {
      "gradient",           "hessian-vector",   "ggn-vector",
      "ef-vector",          "mc-fisher-vector", "hessian-matrix-8",
      "ggn-matrix-8",       "ggn-cg-20",        "hessian-minres-20",
      "hessian-lanczos-20", "kfac-mc",          "kfac-empirical",
      "kfac-type-2",        "ekfac-mc"};
  int threads = 1;
  double budget_seconds = 10;
  std::string json;
};

double seconds_of(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Seconds of repeated calls after one that warms up: at least 3, at most 30, within the budget.
std::vector<double> sample(const std::function<void()>& work, double budget) {
  work();
  std::vector<double> samples;
  for (double total = 0; samples.size() < kMinRepeats ||
                         (samples.size() < kMaxRepeats && total + samples.back() < budget);) {
    samples.push_back(seconds_of(work));
    total += samples.back();
  }
  std::sort(samples.begin(), samples.end());
  return samples;
}

double peak_rss_mb() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<double>(usage.ru_maxrss) / 1024;
}

/// v_i = cos(i), or V_ik = cos(i + k).
at::Tensor probe(int64_t n, int64_t columns, const at::TensorOptions& options) {
  TensorList parts;
  for (int64_t k = 0; k < columns; ++k) {
    parts.push_back(at::arange(k, k + n, options.dtype(at::kDouble)).cos().to(options.dtype()));
  }
  return columns == 1 ? parts.front() : at::stack(parts, 1);
}

double inner(const at::Tensor& a, const at::Tensor& b) {
  return a.to(at::kDouble).mul(b.to(at::kDouble)).sum().item<double>();
}

class Benchmark {
 public:
  explicit Benchmark(const Options& options) : options_(options) {}

  void run(const std::string& workload) {
    workload_ = workload;
    const auto folder = std::filesystem::path(options_.folder) / workload;
    const at::Tensor inputs = read_npy((folder / "inputs.npy").string());
    const at::Tensor targets = read_npy((folder / "targets.npy").string());
    const EmpiricalRisk risk(load_torchscript((folder / "model.pt").string()), cross_entropy(),
                             tensor_dataset({inputs}, targets, inputs.size(0)));
    gradient_seconds_ = 0;
    for (const std::string& operation : options_.operations) measure(operation, risk);
  }

  const Json& rows() const { return rows_; }

 private:
  void measure(const std::string& operation, const EmpiricalRisk& risk) {
    if (operation == "gradient") {
      const auto samples = sample([&] { risk.gradient(); }, options_.budget_seconds);
      gradient_seconds_ = samples[samples.size() / 2];
      double square = 0;
      for (const at::Tensor& part : risk.gradient()) square += inner(part, part);
      record(operation, "product", samples, std::sqrt(square));
      return;
    }
    if (operation.ends_with("-20")) return measure_iterations(operation, risk);
    if (operation.starts_with("kfac-")) return measure_kfac(operation, layers_of(risk));
    if (operation == "ekfac-mc") return measure_ekfac(layers_of(risk));
    const bool is_matrix = operation.ends_with("-matrix-8");
    const at::Tensor v = probe(risk.space().size(), is_matrix ? 8 : 1,
                               risk.parameters().front().options().requires_grad(false));
    const OperatorPtr a = build(operation, risk);
    at::Tensor product;
    const double first = seconds_of([&] { product = a->apply(v); });
    record(operation, "first-product", {first}, std::nullopt);
    const auto samples = sample([&] { product = a->apply(v); }, options_.budget_seconds);
    record(operation, "product", samples, inner(v, product));
  }

  /// Twenty steps of a Krylov method: what it adds to twenty products.
  void measure_iterations(const std::string& operation, const EmpiricalRisk& risk) {
    const OperatorPtr a = shifted(build(operation, risk), 1e-3);
    const auto& space = risk.space();
    const at::Tensor v = probe(space.size(), 1, risk.model().parameters().front().tensor.options());
    const IterationOptions iteration = {.relative_residual = 0, .max_iterations = 20};
    at::Tensor x;
    const auto work = [&] {
      if (operation.ends_with("-lanczos-20")) {
        x = lanczos(*a, v, {.num_steps = 20}).next;
      } else {
        x = solve(a, v,
                  operation.ends_with("-cg-20") ? conjugate_gradient(iteration) : minres(iteration))
                .x;
      }
    };
    const auto samples = sample(work, options_.budget_seconds);
    record(operation, "product", samples, inner(v, x));
  }

  /// The parameters of linear and convolution layers alone, which every K-FAC knows.
  static EmpiricalRisk layers_of(const EmpiricalRisk& risk) {
    std::vector<std::string> names;
    for (const ParameterTreatment& parameter : describe_layers(risk)) {
      const std::string& kind = parameter.treatment;
      if (kind.starts_with("linear") || kind.starts_with("convolution")) {
        names.push_back(parameter.name);
      }
    }
    return risk.with_parameters(names);
  }

  void measure_kfac(const std::string& operation, const EmpiricalRisk& risk) {
    KfacOptions options;
    if (operation == "kfac-mc") options.fisher = Fisher::kMonteCarlo;
    if (operation == "kfac-empirical") options.fisher = Fisher::kEmpirical;
    OperatorPtr a;
    const auto setup = sample([&] { a = kfac(risk, options); }, options_.budget_seconds);
    record(operation, "setup", setup, std::nullopt);
    measure_product(operation, a);
    if (operation != "kfac-mc") return;
    OperatorPtr inverted;
    const auto invert = [&] {  // 1e-3 is added to each factor
      inverted = damped(a, {.damping = 1e-6, .kind = KroneckerDamping::kPerFactor})->inverse();
    };
    record("kfac-mc-inverse", "setup", sample(invert, options_.budget_seconds), std::nullopt);
    measure_product("kfac-mc-inverse", inverted);
  }

  void measure_ekfac(const EmpiricalRisk& risk) {
    const BatchRisk batch = risk.on(0);
    const auto make = [&] { return KfacEstimator(risk, {.fisher = Fisher::kMonteCarlo}); };
    KfacEstimator estimator = make();
    const auto factors = [&] {
      estimator = make();
      estimator.update(batch);
    };
    record("ekfac-mc", "setup-factors", sample(factors, options_.budget_seconds), std::nullopt);
    record("ekfac-mc", "setup-eigenvectors",
           sample([&] { estimator.refresh_basis(); }, options_.budget_seconds), std::nullopt);
    const auto correct = [&] {
      estimator.correct(batch);
      estimator.ekfac();
    };
    record("ekfac-mc", "setup-correction", sample(correct, options_.budget_seconds), std::nullopt);
    const OperatorPtr a = estimator.ekfac();
    measure_product("ekfac-mc", a);
    measure_product("ekfac-mc-inverse", shifted(a, 1e-3)->inverse());
  }

  void measure_product(const std::string& operation, const OperatorPtr& a) {
    const at::Tensor v =
        probe(a->cols(), 1, at::TensorOptions().dtype(a->spec().dtype).device(a->spec().device));
    at::Tensor product;
    const auto samples = sample([&] { product = a->apply(v); }, options_.budget_seconds);
    record(operation, "product", samples, inner(v, product));
  }

  static OperatorPtr build(const std::string& operation, const EmpiricalRisk& risk) {
    if (operation.starts_with("hessian-")) return hessian(risk);
    if (operation.starts_with("ggn-")) return ggn(risk);
    if (operation == "ef-vector") return empirical_fisher(risk);
    if (operation == "mc-fisher-vector") return ggn_mc(risk);
    throw OptionError(fmt::format("--operations: unknown operation '{}'", operation));
  }

  void record(const std::string& operation, const std::string& phase,
              const std::vector<double>& samples, std::optional<double> value) {
    const double median = samples[samples.size() / 2];
    Json row = {
        {"library", "curvature"},   {"workload", workload_},       {"operation", operation},
        {"phase", phase},           {"threads", options_.threads}, {"median_s", median},
        {"min_s", samples.front()}, {"repeats", samples.size()},   {"peak_rss_mb", peak_rss_mb()}};
    if (value) row["value"] = *value;
    rows_.push_back(std::move(row));
    const std::string gradients =
        gradient_seconds_ > 0 ? fmt::format("{:8.2f}", median / gradient_seconds_) : "";
    fmt::print("{:6s} {:18s} {:18s} {:10.4f} s {:8s}  {}\n", workload_, operation, phase, median,
               gradients, value ? fmt::format("{:.6g}", *value) : "");
    std::fflush(stdout);
  }

  Options options_;
  Json rows_ = Json::array();
  std::string workload_;
  double gradient_seconds_ = 0;
};

}  // namespace

int main(int argc, char* argv[]) {
  Options options;
  CLI::App app("Times curvature products on exported workloads");
  app.add_option("DIR", options.folder, "folder of workloads")->required();
  app.add_option("--workloads", options.workloads, "default: mlp conv cnn gpt");
  app.add_option("--operations", options.operations, "default: all; gradient first");
  app.add_option("--threads", options.threads)->check(CLI::PositiveNumber);
  app.add_option("--budget", options.budget_seconds, "seconds for repeating a row")
      ->check(CLI::PositiveNumber);
  app.add_option("--json", options.json, "file for the rows");
  CLI11_PARSE(app, argc, argv);
  try {
    at::set_num_threads(options.threads);
    fmt::print("{:6s} {:18s} {:18s} {:>12s} {:>8s}  {}\n", "", "operation", "phase", "median",
               "gradients", "value");
    Benchmark benchmark(options);
    for (const std::string& workload : options.workloads) benchmark.run(workload);
    if (!options.json.empty()) std::ofstream(options.json) << benchmark.rows().dump(1) << '\n';
  } catch (const std::exception& error) {
    fmt::print(stderr, "curvature_bench: error: {}\n", error.what());
    return 1;
  }
  return 0;
}
