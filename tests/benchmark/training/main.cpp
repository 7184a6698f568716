// Trains two models with each optimizer, as AlgoPerf compares them: every method has as many tuning
// trials, the learning rates of one grid with seed 0; the best by its final held-out loss is then
// trained with other seeds. A trial is a line of JSON in a file; trials that are there already are
// not run again. report.py makes the table and the pictures' data.

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <limits>

#include <ATen/Parallel.h>

#include <CLI/CLI.hpp>
#include <fmt/core.h>

#include <curvature/core/error.hpp>

#include "core/fast_kernels.hpp"
#include "trial.hpp"

namespace {

using namespace curvature;
using namespace curvature::benchmark;

struct Options {
  std::vector<std::string> tasks = {"character-gpt", "fashion-mlp"};
  std::vector<std::string> methods;
  std::string fashion_mnist = "/usr/share/datasets/fashion-mnist";
  std::string text;
  std::string rows;
  std::vector<double> rates = {0.002, 0.005, 0.0125, 0.03};
  int64_t seeds = 3, every = 10;
  int64_t gpt_batch = 16, mlp_batch = 256, gpt_steps = 300, mlp_steps = 480;
};

/// The trials that a file has, and those that join them.
class Rows {
 public:
  explicit Rows(std::string file) : file_(std::move(file)) {
    std::ifstream stream(file_);
    for (std::string line; std::getline(stream, line);) rows_.push_back(Json::parse(line));
  }

  /// The row of a trial, which is run if it is not there.
  const Json& row_of(const Trial& trial) {
    const Json wanted = identity(trial);
    const auto is_it = [&](const Json& row) {
      return std::all_of(wanted.items().begin(), wanted.items().end(), [&](const auto& item) {
        return row.contains(item.key()) && row[item.key()] == item.value();
      });
    };
    const auto found = std::find_if(rows_.begin(), rows_.end(), is_it);
    if (found != rows_.end()) return *found;
    rows_.push_back(run(trial));
    std::ofstream stream(file_, std::ios::app);
    stream << rows_.back().dump() << std::endl;
    if (!stream) throw FileError(fmt::format("training: cannot write '{}'", file_));
    return rows_.back();
  }

 private:
  std::string file_;
  std::vector<Json> rows_;
};

double final_loss(const Json& row) {
  return row["final_loss"].is_null() ? std::numeric_limits<double>::infinity()
                                     : row["final_loss"].get<double>();
}

void print(const Json& row) {
  fmt::print("{} {} rate {} seed {}: loss {:.4f}, {:.4f} s a step\n",
             row["task"].get<std::string>(), row["method"].get<std::string>(),
             row["learning_rate"].get<double>(), row["seed"].get<int64_t>(), final_loss(row),
             row["seconds"].get<double>() / row["steps"].get<double>());
  std::fflush(stdout);
}

void compare(const Problem& problem, const Method& method, const Options& options, Rows& rows) {
  double best_rate = options.rates.front(), best = std::numeric_limits<double>::infinity();
  for (const double rate : options.rates) {
    const Json& row = rows.row_of({.problem = &problem,
                                   .method = &method,
                                   .learning_rate = rate,
                                   .seed = 0,
                                   .evaluate_every = problem.num_steps});
    print(row);
    if (final_loss(row) < best) {
      best = final_loss(row);
      best_rate = rate;
    }
  }
  for (int64_t seed = 1; seed <= options.seeds; ++seed) {
    print(rows.row_of({.problem = &problem,
                       .method = &method,
                       .learning_rate = best_rate,
                       .seed = static_cast<uint64_t>(seed),
                       .evaluate_every = options.every}));
  }
}

Problem problem_of(const std::string& task, const Options& options) {
  return task == "fashion-mlp"
             ? fashion_mlp(options.fashion_mnist, options.mlp_batch, options.mlp_steps)
             : character_gpt(options.text, options.gpt_batch, options.gpt_steps);
}

std::vector<std::string> names_of(const std::vector<Method>& all) {
  std::vector<std::string> names;
  for (const Method& method : all) names.push_back(method.name);
  return names;
}

void compare_all(const Options& options) {
  Rows rows(options.rows);
  const std::vector<Method> all = methods();
  for (const std::string& task : options.tasks) {
    const Problem problem = problem_of(task, options);
    for (const Method& method : all) {
      const auto& chosen = options.methods;
      if (std::find(chosen.begin(), chosen.end(), method.name) == chosen.end()) continue;
      compare(problem, method, options, rows);
    }
  }
}

}  // namespace

int main(int argc, char* argv[]) {
  Options options;
  options.methods = names_of(methods());
  CLI::App app("Compares optimizers in training");
  app.add_option("--rows", options.rows, "file of trials, which may exist")->required();
  app.add_option("--text", options.text, "what character-gpt learns")->check(CLI::ExistingFile);
  app.add_option("--fashion-mnist", options.fashion_mnist, "folder of the four files");
  app.add_option("--tasks", options.tasks, "character-gpt, fashion-mlp")
      ->delimiter(',')
      ->check(CLI::IsMember({"character-gpt", "fashion-mlp"}));
  app.add_option("--methods", options.methods, "all by default")
      ->delimiter(',')
      ->check(CLI::IsMember(names_of(methods())));
  app.add_option("--rates", options.rates, "learning rates of the tuning trials")->delimiter(',');
  app.add_option("--seeds", options.seeds, "trials with the best rate");
  app.add_option("--every", options.every, "steps between evaluations")->check(CLI::PositiveNumber);
  app.add_option("--gpt-batch", options.gpt_batch, "windows of text")->check(CLI::PositiveNumber);
  app.add_option("--mlp-batch", options.mlp_batch, "images")->check(CLI::PositiveNumber);
  app.add_option("--gpt-steps", options.gpt_steps, "of a run")->check(CLI::PositiveNumber);
  app.add_option("--mlp-steps", options.mlp_steps, "of a run")->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  at::set_num_threads(1);
  try {
    const detail::FastKernels fast;
    compare_all(options);
  } catch (const std::exception& error) {
    std::cerr << "curvature_training_bench: " << error.what() << '\n';
    return 1;
  }
}
