#include "cli/report.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <iostream>

#include <curvature/core/memory.hpp>
#include <curvature/version.hpp>

#include "core/check.hpp"

namespace curvature::cli {
namespace {

void check_finite(const Json& value, const std::string& where) {
  if (value.is_structured()) {
    for (const auto& [key, element] : value.items()) check_finite(element, where + "/" + key);
  }
  CURVATURE_CHECK(!value.is_number_float() || std::isfinite(value.get<double>()), NumericalError,
                  "report: {} is not finite; expected a number, got {}", where,
                  value.get<double>());
}

}  // namespace

Json with_origin(Json report, const Invocation& invocation, uint64_t seed) {
  report["version"] = CURVATURE_VERSION;
  report["command_line"] = invocation.command_line;
  report["seed"] = seed;
  return report;
}

std::map<std::string, std::string> origin(const Invocation& invocation, uint64_t seed) {
  return {{"version", CURVATURE_VERSION},
          {"command_line", invocation.command_line},
          {"seed", std::to_string(seed)}};
}

std::string to_text(const Json& report) {
  check_finite(report, "");
  // A command line need not be UTF-8; JSON must be.
  return report.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void print_json(const Json& report) { print_text(to_text(report)); }

void print_text(const std::string& text) {
  std::cout << text << std::flush;
  CURVATURE_CHECK(std::cout.good(), FileError,
                  "standard output cannot be written; expected room for {} bytes, got an error",
                  text.size());
}

void print_plan(const Plan& plan, const Problem& problem, const ProblemOptions& options,
                const Invocation& invocation) {
  const int64_t num_examples = problem.num_examples();
  const int64_t num_batches = (num_examples - 1) / options.batch_size + 1;
  const int64_t budget =
      options.memory_budget.value_or(default_memory_budget(at::Device(options.device)));
  if (options.json) {
    print_json(with_origin({{"dry_run", true},
                            {"job", plan.job},
                            {"num_parameters", problem.space.size()},
                            {"num_data", num_examples},
                            {"num_batches", num_batches},
                            {"products", plan.products},
                            {"memory_bytes", plan.memory_bytes},
                            {"memory_budget", budget}},
                           invocation, options.seed));
    return;
  }
  print_text(fmt::format(
      "would compute: {}\n"
      "model:         {}, {} in {}\n"
      "data:          {} in {}\n"
      "memory:        {} for vectors and matrices, up to {} kept between products\n",
      plan.job, problem.model.description(), count_of(problem.space.size(), "parameter"),
      count_of(static_cast<int64_t>(problem.space.entries().size()), "tensor"),
      count_of(num_examples, "example"),
      num_batches == 1 ? std::string("1 batch") : fmt::format("{} batches", num_batches),
      format_bytes(plan.memory_bytes), format_bytes(budget)));
}

void announce(const Plan& plan, const OperatorOptions& choice, const ProblemOptions& options) {
  constexpr int64_t kMuch = int64_t{1} << 30;
  if (options.json) return;
  const bool hessian_diagonal = choice.name == "hessian-diagonal";
  if (hessian_diagonal || plan.product_per_parameter) {
    print_text(fmt::format("an exact {} takes a product for each parameter: {}\n",
                           hessian_diagonal ? "Hessian diagonal" : "answer", plan.job));
  }
  if (plan.memory_bytes > kMuch) {
    print_text(fmt::format("needs {} for vectors and matrices, {} are free\n",
                           format_bytes(plan.memory_bytes),
                           format_bytes(available_memory(at::Device(options.device)))));
  }
}

std::string format_bytes(int64_t bytes) {
  const char* units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto amount = static_cast<double>(bytes);
  size_t unit = 0;
  for (; amount >= 1024 && unit < 4; ++unit) amount /= 1024;
  return unit == 0 ? fmt::format("{} bytes", bytes) : fmt::format("{:.1f} {}", amount, units[unit]);
}

std::string count_of(int64_t count, const std::string& noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string shell_quoted(const std::string& word) {
  const std::string plain = "-_./:=,+@%^";
  const bool is_plain =
      !word.empty() && std::all_of(word.begin(), word.end(), [&](unsigned char c) {
        return std::isalnum(c) != 0 || plain.find(static_cast<char>(c)) != std::string::npos;
      });
  if (is_plain) return word;
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

}  // namespace curvature::cli
