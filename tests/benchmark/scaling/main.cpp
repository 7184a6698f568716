// How the cost of a GGN product grows with the number of examples, parameters and columns, with the
// memory that linearisations may take, and with threads: a perceptron on random images, batches of
// 256. Prints gnuplot's data blocks, one for each axis: the quantity, seconds, the peak in MB.

#include <cmath>
#include <cstdlib>
#include <optional>

#include <ATen/Parallel.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/full.h>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <curvature/core/random.hpp>
#include <curvature/matrix_free/ggn.hpp>

#include "../child.hpp"
#include "../recorder.hpp"

namespace {

using namespace curvature;
using namespace curvature::benchmark;

constexpr int64_t kInputs = 784, kClasses = 10, kBatch = 256;

/// One point of an axis.
struct Case {
  int64_t batches = 1;
  int64_t width = 256;
  int64_t columns = 1;
  std::optional<int64_t> memory_budget = {};
  int threads = 1;
};

at::Tensor draw(uint64_t stream, const Shape& shape, double scale) {
  const at::Tensor numbers = RandomSource(1).normal(stream, c10::multiply_integers(shape));
  return numbers.mul(scale).to(at::kFloat).view(shape);
}

EmpiricalRisk risk_of(const Case& c) {
  const std::vector<int64_t> sizes = {kInputs, c.width, c.width, kClasses};
  std::vector<NamedTensor> parameters;
  for (size_t i = 0; i + 1 < sizes.size(); ++i) {
    const double scale = 1 / std::sqrt(static_cast<double>(sizes[i]));
    parameters.push_back(
        {fmt::format("{}.weight", i), draw(2 * i, {sizes[i], sizes[i + 1]}, scale)});
    parameters.push_back({fmt::format("{}.bias", i), draw(2 * i + 1, {sizes[i + 1]}, scale)});
  }
  for (NamedTensor& parameter : parameters) parameter.tensor.requires_grad_();
  const auto forward = [parameters](const TensorList& x) {
    at::Tensor h = x.front();
    for (size_t i = 0; i < parameters.size(); i += 2) {
      h = at::addmm(parameters[i + 1].tensor, h, parameters[i].tensor);
      if (i + 2 < parameters.size()) h = h.relu();
    }
    return h;
  };
  // Batches are made when they are asked for: data take no memory.
  const auto load = [](int64_t index) {
    const at::Tensor x = draw(100 + static_cast<uint64_t>(index), {kBatch, kInputs}, 1);
    return Batch{
        .inputs = {x}, .targets = at::full({kBatch}, index % kClasses, at::kLong), .weights = {}};
  };
  return EmpiricalRisk(Model(forward, parameters), cross_entropy(),
                       function_dataset(c.batches, load));
}

/// Seconds of a product after the first, and the process's peak in MB.
Json measure(const Case& c, double budget_seconds) {
  Json row;
  const auto work = [&](std::FILE* sink) {
    at::set_num_threads(c.threads);
    const OperatorPtr a = ggn(risk_of(c), {.memory_budget = c.memory_budget});
    a->apply(probe(*a, c.columns));
    Recorder(Json::object(), budget_seconds, sink).product("ggn", *a, c.columns);
  };
  const auto receive = [&](const Json& message) {
    if (message.contains("median_s")) row = message;
  };
  const std::string note = run_in_child(work, receive);
  if (!note.empty()) throw std::runtime_error(note);
  return row;
}

void print(const std::string& title, const std::vector<std::pair<double, Case>>& axis,
           double budget_seconds) {
  fmt::print("# {}\n", title);
  for (const auto& [quantity, c] : axis) {
    const Json row = measure(c, budget_seconds);
    fmt::print("{} {:.6f} {:.0f}\n", quantity, row.at("median_s").get<double>(),
               row.at("peak_rss_mb").get<double>());
    std::fflush(stdout);
  }
  fmt::print("\n\n");
}

void run(double budget_seconds) {
  using Axis = std::vector<std::pair<double, Case>>;
  constexpr int64_t kNothing = 0, kMegabyte = int64_t{1} << 20;
  Axis examples, kept, widths, columns, budgets, threads;
  for (int64_t batches = 1; batches <= 64; batches *= 4) {
    const auto n = static_cast<double>(batches * kBatch);
    examples.push_back({n, {.batches = batches, .memory_budget = kNothing}});
    kept.push_back({n, {.batches = batches}});
  }
  for (int64_t width = 64; width <= 2048; width *= 2) {
    const auto d = static_cast<double>((kInputs + 1 + width + 1 + kClasses) * width + kClasses);
    widths.push_back({d, {.width = width}});
  }
  for (int64_t k = 1; k <= 64; k *= 4) columns.push_back({static_cast<double>(k), {.columns = k}});
  for (int64_t megabytes = 0; megabytes <= 64; megabytes += 16) {
    budgets.push_back(
        {static_cast<double>(megabytes), {.batches = 16, .memory_budget = megabytes * kMegabyte}});
  }
  for (int count = 1; count <= 2; ++count) {
    threads.push_back(
        {static_cast<double>(count), {.batches = 4, .width = 1024, .threads = count}});
  }
  print("examples, nothing kept", examples, budget_seconds);
  print("examples, linearisations kept", kept, budget_seconds);
  print("parameters", widths, budget_seconds);
  print("columns", columns, budget_seconds);
  print("memory budget in MB, 4096 examples", budgets, budget_seconds);
  print("threads, width 1024", threads, budget_seconds);
}

}  // namespace

int main(int argc, char* argv[]) {
  double budget_seconds = 2;
  CLI::App app("Times GGN products as the problem grows");
  app.add_option("--budget", budget_seconds, "seconds for repeating a point; default: 2")
      ->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  try {
    run(budget_seconds);
  } catch (const std::exception& error) {
    fmt::print(stderr, "curvature_scaling: error: {}\n", error.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
