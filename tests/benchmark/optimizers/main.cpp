// Times single steps of optimizers for given gradients on the parameter shapes of three networks:
// the rows of the peers' benchmark of optimizers.

#include <algorithm>
#include <chrono>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
#include <set>

#include <ATen/Parallel.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/record_function.h>

#include <CLI/CLI.hpp>
#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include <curvature/core/random.hpp>
#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/muon_estimator.hpp>
#include <curvature/optim/preconditioned.hpp>
#include <curvature/optim/psgd_kron_estimator.hpp>
#include <curvature/optim/shampoo_estimator.hpp>
#include <curvature/optim/soap_estimator.hpp>

namespace {

using namespace curvature;
using namespace curvature::optim;
using Json = nlohmann::ordered_json;

std::vector<Shape> mlp() { return {{512, 784}, {512}, {512, 512}, {512}, {10, 512}, {10}}; }

std::vector<Shape> decoder() {
  constexpr int64_t kWidth = 384;
  std::vector<Shape> shapes = {{65, kWidth}, {256, kWidth}};
  for (int layer = 0; layer < 6; ++layer) {
    for (const Shape& shape : {Shape{kWidth}, Shape{3 * kWidth, kWidth}, Shape{kWidth, kWidth},
                               Shape{kWidth}, Shape{4 * kWidth, kWidth}, Shape{kWidth, 4 * kWidth}})
      shapes.push_back(shape);
  }
  shapes.push_back({kWidth});
  return shapes;
}

std::vector<Shape> resnet18() {
  std::vector<Shape> shapes = {{64, 3, 7, 7}, {64}, {64}};
  int64_t width = 64;
  for (const int64_t channels : {64, 128, 256, 512}) {
    for (int block = 0; block < 2; ++block) {
      const int64_t first = block == 0 ? width : channels;
      for (const Shape& shape : {Shape{channels, first, 3, 3}, Shape{channels}, Shape{channels},
                                 Shape{channels, channels, 3, 3}, Shape{channels}, Shape{channels}})
        shapes.push_back(shape);
      if (block == 0 && channels > 64) {
        for (const Shape& shape : {Shape{channels, first, 1, 1}, Shape{channels}, Shape{channels}})
          shapes.push_back(shape);
      }
    }
    width = channels;
  }
  shapes.push_back({10, 512});
  shapes.push_back({10});
  return shapes;
}

/// An optimizer with its preconditioner renewed every `interval` steps.
struct Method {
  EstimatorFactory (*estimator)(int64_t interval);
  PreconditionedOptions options;
  bool has_interval = true;
};

const std::map<std::string, Method>& methods() {
  const PreconditionedOptions matrix;
  const PreconditionedOptions spatial = {.view = {.shape = ShapePolicy::kSpatial}};
  const PreconditionedOptions muon = {
      .momentum = {.beta = 0.95, .nesterov = true, .bias_correction = false}};
  const PreconditionedOptions tensor = {.view = {.shape = ShapePolicy::kTensor}};
  static const std::map<std::string, Method> all = {
      {"adamw", {[](int64_t) { return adam_estimator(); }, matrix, false}},
      {"shampoo",
       {[](int64_t t) { return shampoo_estimator({.refresh = {.interval = t}}); },
        {.graft = {.kind = Graft::kAdam}, .view = {.shape = ShapePolicy::kTensor}}}},
      {"soap", {[](int64_t t) { return soap_estimator({.refresh = {.interval = t}}); }, tensor}},
      {"eshampoo",
       {[](int64_t t) {
          SoapEstimatorOptions options = eshampoo_options();
          options.refresh.interval = t;
          return eshampoo_estimator(options);
        },
        tensor}},
      {"kl-shampoo",
       {[](int64_t t) { return kl_shampoo_estimator({.refresh = {.interval = t, .start = t}}); },
        spatial}},
      {"kl-soap",
       {[](int64_t t) {
          KlShampooEstimatorOptions options = kl_soap_options();
          options.refresh = {.interval = t, .start = t};
          return kl_shampoo_estimator(options);
        },
        spatial}},
      {"psgd-kron",
       {[](int64_t t) { return psgd_kron_estimator({.refresh_interval = t}); },
        {.momentum = {.averaging = Averaging::kRunningMean},
         .clip = {.rms = 2, .entry = 10},
         .view = {.shape = ShapePolicy::kTensor}}}},
      {"muon", {[](int64_t) { return muon_estimator(); }, muon, false}},
      {"muon-bfloat16",
       {[](int64_t) { return muon_estimator({.products = at::kBFloat16}); }, muon, false}},
  };
  return all;
}

template <class Work>
double seconds_of(const Work& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// Seconds in products of matrices and decompositions while one lives: what LibTorch's operations
/// of these names take, the outermost ones. For one thread.
class ArithmeticClock {
 public:
  ArithmeticClock() {
    total() = 0;
    const auto callback =
        at::RecordFunctionCallback(&begin, &end).scopes({at::RecordScope::FUNCTION});
    handle_ = at::addGlobalCallback(callback);
  }
  ~ArithmeticClock() { at::removeCallback(handle_); }
  ArithmeticClock(const ArithmeticClock&) = delete;
  ArithmeticClock& operator=(const ArithmeticClock&) = delete;

  static double& total() {
    static double seconds = 0;
    return seconds;
  }

 private:
  using Clock = std::chrono::steady_clock;

  struct Operation : at::ObserverContext {
    Clock::time_point begin = Clock::now();
  };

  static int& depth() {
    static int count = 0;
    return count;
  }
  static bool is_arithmetic(const std::string& name) {
    // clang-format off
    static const std::set<std::string> names = {
        "aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "aten::baddbmm", "aten::matmul",
        "aten::mv", "mkldnn::_linear_pointwise", "aten::geqrf", "aten::linalg_qr",
        "aten::linalg_eigh", "aten::linalg_cholesky_ex", "aten::linalg_solve_triangular"};
    // clang-format on
    return names.contains(name);
  }
  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& function) {
    if (!is_arithmetic(function.name())) return nullptr;
    depth() += 1;
    return std::make_unique<Operation>();
  }
  static void end(const at::RecordFunction&, at::ObserverContext* context) {
    if (context == nullptr) return;
    depth() -= 1;
    const auto* operation = static_cast<Operation*>(context);
    if (depth() == 0) {
      total() += std::chrono::duration<double>(Clock::now() - operation->begin).count();
    }
  }

  at::CallbackHandle handle_;
};

/// Parameters of a workload with three sets of gradients that take turns.
class Stepper {
 public:
  Stepper(const std::vector<Shape>& shapes, const Method& method, int64_t interval) {
    const RandomSource random(0);
    std::vector<NamedTensor> parameters;
    const auto draw = [&](const Shape& shape, uint64_t stream, double scale) {
      int64_t size = 1;
      for (const int64_t d : shape) size *= d;
      return random.normal(stream, size).mul(scale).to(at::kFloat).view(shape);
    };
    for (size_t i = 0; i < shapes.size(); ++i) {
      parameters_.push_back(draw(shapes[i], i, 0.05).requires_grad_());
      parameters.push_back({fmt::format("p{}", i), parameters_.back()});
      for (size_t g = 0; g < 3; ++g)
        gradients_[g].push_back(draw(shapes[i], 1000 * (g + 1) + i, 0.01));
    }
    optimizer_.emplace(std::move(parameters), method.estimator(interval), method.options);
  }

  /// Seconds of one step.
  double step() {
    for (size_t i = 0; i < parameters_.size(); ++i)
      parameters_[i].mutable_grad() = gradients_[count_ % 3][i];
    count_ += 1;
    return seconds_of([this] { optimizer_->step(); });
  }

 private:
  TensorList parameters_;
  std::array<TensorList, 3> gradients_;
  std::optional<Preconditioned> optimizer_;
  size_t count_ = 0;
};

struct Options {
  std::vector<std::string> workloads = {"mlp", "decoder", "resnet18"};
  std::vector<std::string> methods;
  double budget = 6;
  int threads = 1;
  std::string json;
};

/// Sorted seconds for each step, of cycles of `cycle` steps; `step` does one and says how long.
std::vector<double> measure(const std::function<double()>& step, int cycle, double budget) {
  constexpr int kWarm = 2;
  constexpr size_t kLeast = 3, kMost = 30;
  for (int i = 0; i < kWarm * cycle; ++i) step();
  std::vector<double> seconds;
  double total = 0;
  while (seconds.size() < kMost && (seconds.size() < kLeast || total < budget)) {
    double sum = 0;
    for (int i = 0; i < cycle; ++i) sum += step();
    seconds.push_back(sum / cycle);
    total += sum;
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

/// The part of a cycle's time that goes into products and decompositions.
double arithmetic_share(const std::function<double()>& step, int64_t cycle) {
  const ArithmeticClock clock;
  double total = 0;
  for (int64_t i = 0; i < cycle; ++i) total += step();
  return ArithmeticClock::total() / total;
}

Json run(const std::string& workload, const std::vector<Shape>& shapes, const std::string& name,
         const Method& method, int64_t interval, const Options& options) {
  Stepper stepper(shapes, method, interval);
  const std::vector<double> seconds =
      measure([&] { return stepper.step(); }, static_cast<int>(interval), options.budget);
  const double share = arithmetic_share([&] { return stepper.step(); }, interval);
  return {{"library", "curvature." + name},
          {"workload", workload},
          {"operation", "step"},
          {"phase", method.has_interval ? fmt::format("every_{}", interval) : "step"},
          {"threads", options.threads},
          {"median_s", seconds[seconds.size() / 2]},
          {"min_s", seconds.front()},
          {"arithmetic_share", share},
          {"repeats", seconds.size()}};
}

/// Median seconds of LAPACK for a positive definite matrix `[n, n]`.
double decomposition_seconds(int64_t n, double budget) {
  const at::Tensor rows = RandomSource(0).normal(0, 2 * n * n).to(at::kFloat).view({2 * n, n});
  const at::Tensor gram = rows.t().mm(rows);
  const auto decompose = [&] { return seconds_of([&] { at::linalg_eigh(gram); }); };
  const std::vector<double> seconds = measure(decompose, 1, budget);
  return seconds[seconds.size() / 2];
}

/// What LAPACK alone takes for the factors of all axes: Shampoo cannot renew its roots in less.
Json decompositions(const std::string& workload, const std::vector<Shape>& shapes,
                    const Options& options) {
  std::map<int64_t, int64_t> counts;
  for (const Shape& shape : shapes) {
    if (shape.size() == 1) continue;
    for (const int64_t n : shape) counts[n] += 1;
  }
  double total = 0;
  for (const auto& [n, count] : counts) {
    total += static_cast<double>(count) * decomposition_seconds(n, options.budget);
  }
  return {{"library", "LibTorch.eigh"}, {"workload", workload},       {"operation", "factors"},
          {"phase", "every_1"},         {"threads", options.threads}, {"median_s", total}};
}

}  // namespace

int main(int argc, char* argv[]) {
  Options options;
  CLI::App app("Times steps of optimizers without the gradient");
  app.add_option("--workloads", options.workloads, "mlp, decoder, resnet18")->delimiter(',');
  app.add_option("--methods", options.methods,
                 "all by default; eigh: decompositions of Shampoo's factors alone")
      ->delimiter(',');
  app.add_option("--budget", options.budget, "seconds for a row");
  app.add_option("--threads", options.threads, "of LibTorch");
  app.add_option("--json", options.json, "file for the rows");
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(options.threads);

  const std::map<std::string, std::vector<Shape>> workloads = {
      {"mlp", mlp()}, {"decoder", decoder()}, {"resnet18", resnet18()}};
  Json rows = Json::array();
  const auto add = [&](Json row) {
    std::cout << row.dump() << std::endl;
    rows.push_back(std::move(row));
  };
  const auto is_wanted = [&](const std::string& name) {
    return options.methods.empty() ||
           std::find(options.methods.begin(), options.methods.end(), name) != options.methods.end();
  };
  for (const std::string& workload : options.workloads) {
    const std::vector<Shape>& shapes = workloads.at(workload);
    if (is_wanted("eigh")) add(decompositions(workload, shapes, options));
    for (const auto& [name, method] : methods()) {
      if (!is_wanted(name)) continue;
      add(run(workload, shapes, name, method, 1, options));
      if (method.has_interval) add(run(workload, shapes, name, method, 10, options));
    }
  }
  if (!options.json.empty()) std::ofstream(options.json) << rows.dump(1) << '\n';
}
