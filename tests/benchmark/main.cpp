// Times curvature computations on workloads exported as TorchScript: DIR/NAME/{model.pt,
// inputs.npy, targets.npy}, mean cross-entropy with the classes last, all data in one batch.

#include <algorithm>
#include <cstdlib>
#include <map>
#include <optional>

#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <curvature/core/error.hpp>
#include <curvature/io/npy.hpp>
#include <curvature/model/torchscript.hpp>

#include "child.hpp"
#include "operations.hpp"

namespace {

using namespace curvature;
using namespace curvature::benchmark;

struct Options {
  std::filesystem::path folder;
  std::vector<std::string> workloads;
  std::vector<std::string> operations;
  int threads = 1;
  double budget_seconds = 10;
  std::optional<int64_t> memory_budget;
  std::string json;
};

std::vector<std::string> names_of(const std::vector<Operation>& operations) {
  std::vector<std::string> names;
  for (const Operation& operation : operations) names.push_back(operation.name);
  return names;
}

std::vector<Operation> all_operations() {
  std::vector<Operation> all = product_operations();
  for (const auto& more : {layerwise_operations(), iterative_operations()}) {
    all.insert(all.end(), more.begin(), more.end());
  }
  return all;
}

/// Folders that hold a model.
std::vector<std::string> workloads_in(const std::filesystem::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (exists(entry.path() / "model.pt")) names.push_back(entry.path().filename().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

void check_known(const char* option, const std::vector<std::string>& names,
                 const std::vector<std::string>& known) {
  for (const std::string& name : names) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      throw OptionError(fmt::format("{}: expected some of {}, got {}", option,
                                    CLI::detail::join(known, ", "), name));
    }
  }
}

Problem load(const std::filesystem::path& folder, const Options& options) {
  const at::Tensor inputs = read_npy((folder / "inputs.npy").string());
  const at::Tensor targets = read_npy((folder / "targets.npy").string());
  return {EmpiricalRisk(load_torchscript((folder / "model.pt").string()), cross_entropy(),
                        tensor_dataset({inputs}, targets, inputs.size(0))),
          {.memory_budget = options.memory_budget}};
}

void print(const Json& row, double gradient_seconds) {
  const auto text = [&](const char* name) { return row.at(name).get<std::string>(); };
  fmt::print("{:6s} {:22s} {:18s} ", text("workload"), text("operation"), text("phase"));
  if (!row.at("median_s").is_null()) {
    const double median = row.at("median_s");
    const std::string gradients =
        gradient_seconds > 0 ? fmt::format("{:.2f}", median / gradient_seconds) : "";
    fmt::print("{:10.5f} {:9s} x{:<3d} {:6.0f} ", median, gradients, row.at("repeats").get<int>(),
               row.at("peak_rss_mb").get<double>());
    if (row.contains("value")) fmt::print("{:.6g} ", row.at("value").get<double>());
  }
  fmt::print("{}\n", row.value("note", ""));
  std::fflush(stdout);
}

/// Runs each operation in a child process, prints its rows and merges them into the file.
class Benchmark {
 public:
  Benchmark(Options options, std::vector<Operation> operations)
      : options_(std::move(options)), operations_(std::move(operations)) {}

  void run() {
    fmt::print("{:6s} {:22s} {:18s} {:>10s} {:9s} {:4s} {:>6s} {}\n", "", "operation", "phase",
               "seconds", "gradients", "", "MB", "value, note");
    for (const std::string& workload : options_.workloads) {
      for (const Operation& operation : operations_) run(workload, operation);
    }
  }

 private:
  void run(const std::string& workload, const Operation& operation) {
    const Json identity = {
        {"library", "curvature"}, {"workload", workload}, {"threads", options_.threads}};
    const auto work = [&](std::FILE* sink) {
      at::set_num_threads(options_.threads);
      operation.run(load(options_.folder / workload, options_),
                    Recorder(identity, options_.budget_seconds, sink));
    };
    Json running = identity;  // the row that is being measured
    running.update({{"operation", operation.name}, {"phase", "setup"}});
    Rows rows;
    const auto receive = [&](const Json& message) {
      if (!message.contains("median_s")) {
        running = message;
        return;
      }
      rows.push_back(message);
      if (operation.name == "gradient") gradient_seconds_[workload] = message.at("median_s");
      print(message, gradient_seconds_[workload]);
    };
    if (const std::string note = run_in_child(work, receive); !note.empty()) {
      rows.push_back(failed_row(running, note));
      print(rows.back(), 0);
    }
    if (!options_.json.empty()) merge_rows(options_.json, rows);
  }

  Options options_;
  std::vector<Operation> operations_;
  std::map<std::string, double> gradient_seconds_;
};

void run(Options options) {
  std::vector<Operation> operations = all_operations();
  const std::vector<std::string> workloads = workloads_in(options.folder);
  if (workloads.empty()) {
    throw OptionError(fmt::format("{}: expected folders with a model.pt", options.folder.string()));
  }
  check_known("--operations", options.operations, names_of(operations));
  check_known("--workloads", options.workloads, workloads);
  if (options.workloads.empty()) options.workloads = workloads;
  if (!options.operations.empty()) {
    std::erase_if(operations, [&](const Operation& operation) {
      return std::find(options.operations.begin(), options.operations.end(), operation.name) ==
             options.operations.end();
    });
  }
  Benchmark(std::move(options), std::move(operations)).run();
}

}  // namespace

int main(int argc, char* argv[]) {
  Options options;
  CLI::App app("Times curvature computations on exported workloads");
  app.add_option("DIR", options.folder, "folder of workloads")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--workloads", options.workloads, "default: all in DIR");
  app.add_option("--operations", options.operations,
                 fmt::format("default: all of {}; kfac-mc and ekfac-mc bring their inverses",
                             CLI::detail::join(names_of(all_operations()), ", ")));
  app.add_option("--threads", options.threads, "default: 1")->check(CLI::PositiveNumber);
  app.add_option("--budget", options.budget_seconds, "seconds for repeating a row; default: 10")
      ->check(CLI::PositiveNumber);
  app.add_option("--memory-budget", options.memory_budget,
                 "bytes that a matrix-free operator may keep; default: the library's")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--json", options.json, "file that the rows are merged into");
  CLI11_PARSE(app, argc, argv);
  try {
    run(std::move(options));
  } catch (const std::exception& error) {
    fmt::print(stderr, "curvature_bench: error: {}\n", error.what());
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
