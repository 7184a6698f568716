#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>

#include <nlohmann/json.hpp>

#include "cli/command.hpp"
#include "cli/options.hpp"
#include "cli/problem.hpp"

namespace curvature::cli {

/// Keys in the order in which they were added.
using Json = nlohmann::ordered_json;

/// Adds version, command line and seed.
Json with_origin(Json report, const Invocation& invocation, uint64_t seed);
/// The same as metadata of a file.
std::map<std::string, std::string> origin(const Invocation& invocation, uint64_t seed);

/// Writes a report, or `text`, to standard output.
/// @throws NumericalError if a number in it is not finite, FileError if it cannot be written
void print_json(const Json& report);
void print_text(const std::string& text);
/// A report as it is printed, with a newline.
std::string to_text(const Json& report);

/// What a command will do.
struct Plan {
  std::string job;           ///< in words: `3 products of the hessian`
  int64_t products = 0;      ///< of the operator
  int64_t memory_bytes = 0;  ///< of vectors and matrices, without what is kept between products
  bool product_per_parameter = false;  ///< which people should hear first
};

/// Answers `--dry-run`.
void print_plan(const Plan& plan, const Problem& problem, const ProblemOptions& options,
                const Invocation& invocation);

/// Says first, to people, what takes long or needs much memory.
void announce(const Plan& plan, const OperatorOptions& choice, const ProblemOptions& options);

/// `1.2 GiB`
std::string format_bytes(int64_t bytes);
/// `1 product`, `3 products`
std::string count_of(int64_t count, const std::string& noun);

/// `word` as a shell would need it.
std::string shell_quoted(const std::string& word);

/// Seconds since it was made.
class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace curvature::cli
