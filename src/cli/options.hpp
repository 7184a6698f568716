#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace curvature::cli {

/// What is differentiated, and how; the same for every command that computes.
struct ProblemOptions {
  std::string model;
  std::vector<std::string> inputs;
  std::string targets;
  int64_t batch_size = 256;
  std::string loss = "cross-entropy";
  int64_t class_axis = -1;
  std::optional<int64_t> ignore_index;
  std::string reduction = "mean";
  std::vector<std::string> parameters;  ///< shell patterns; empty: all that require gradients
  std::string dtype;                    ///< empty: as stored
  std::string device = "cpu";
  std::optional<int> threads;
  uint64_t seed = 0;
  std::optional<int64_t> memory_budget;
  bool dry_run = false;
  bool json = false;
};

/// Which curvature matrix.
struct OperatorOptions {
  std::string name;
  double damping = 0;
  std::string block_diagonal;         ///< `layer`, `parameter`; empty: the whole matrix
  std::optional<int64_t> mc_samples;  ///< draws per loss term, 1 if empty
  std::string fisher;                 ///< of layer-wise operators, `type-2` if empty
  std::string weight_sharing;         ///< of layer-wise operators, `expand` if empty
  bool separate_bias = false;         ///< of layer-wise operators
  std::string fallback;               ///< of layer-wise operators, `refuse` if empty
  std::optional<double> fit_damping;  ///< of kl-shampoo, 0 if empty
};

void add_problem_options(CLI::App& command, ProblemOptions& options);
void add_operator_options(CLI::App& command, OperatorOptions& options);
/// `--output FILE` for an array.
CLI::Option* add_array_output(CLI::App& command, const std::string& name, std::string& file,
                              const std::string& description);

/// Names that are separated by bars, as help and completion show the values of an option.
std::string alternatives(const std::vector<std::string>& names);

}  // namespace curvature::cli
