#pragma once

#include <filesystem>
#include <string>
#include <sys/types.h>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

#include <nlohmann/json.hpp>

namespace curvature::testing {

/// What a run of the tool left behind.
struct Outcome {
  int status = -1;  ///< exit status; 128 + the signal that ended it
  std::string output;
  std::string error;

  nlohmann::json json() const { return nlohmann::json::parse(output); }
  /// Whether it failed with this status, nothing on standard output and one line of error that
  /// holds `text`.
  bool is_error(int expected_status, const std::string& text) const;
};
std::ostream& operator<<(std::ostream& out, const Outcome& outcome);

using Words = std::vector<std::string>;
Words operator+(Words first, const Words& second);

/// Runs the built tool.
Outcome run_tool(const Words& words);
/// Starts it with standard error on `error_descriptor`; the caller waits.
pid_t start_tool(const Words& words, int output_descriptor, int error_descriptor);

/// A folder that is removed at the end.
class Scratch {
 public:
  Scratch();
  ~Scratch();
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  std::string operator/(const std::string& name) const { return (folder_ / name).string(); }
  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

/// What a small TorchScript model is made of; the code of `forward` follows `def`.
struct ModelSource {
  std::vector<std::pair<std::string, at::Tensor>> parameters;
  std::string forward;
  std::vector<std::pair<std::string, at::Tensor>> buffers = {};
  bool frozen = false;
};
void save_model(const std::string& file, const ModelSource& source);

/// Seeded numbers, float64.
at::Tensor random_tensor(at::IntArrayRef shape, uint64_t seed);

/// tanh(x W^T) U^T with 5 inputs, 4 hidden units and 3 classes (D = 32), and 20 examples, in files.
ModelSource small_network();
/// Writes a model and data into the folder; returns the options that name them.
Words write_problem(const Scratch& scratch, const ModelSource& source, const at::Tensor& inputs,
                    const at::Tensor& targets);
Words small_problem(const Scratch& scratch);

}  // namespace curvature::testing
