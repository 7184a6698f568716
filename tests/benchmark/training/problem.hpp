#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include <curvature/model/model.hpp>

namespace curvature::benchmark {

using Json = nlohmann::ordered_json;

/// A model in training with the data that it sees. What it computes depends on its seed alone.
class Trainee {
 public:
  virtual ~Trainee() = default;
  /// Leaf tensors.
  virtual std::vector<NamedTensor> parameters() const = 0;
  /// The mean loss of the next batch, to be differentiated.
  virtual at::Tensor next_loss() = 0;
  /// The mean loss of examples that are always the same and never in a batch.
  virtual double held_out_loss() = 0;
};

/// A model and data to train it on.
struct Problem {
  std::string name;   ///< `fashion-mlp`
  int64_t num_steps;  ///< of a run
  Json sizes;         ///< what else runs must have in common to be compared
  std::function<std::unique_ptr<Trainee>(uint64_t seed)> start;  ///< an untrained model
};

/// Embeddings and the output layer are named so; `is_end` tells.
bool is_end(const std::string& parameter);

/// Fashion-MNIST, pixels in [0, 1], and the perceptron 784-512-512-10 with ReLU. Held out: every
/// second test image.
Problem fashion_mlp(const std::filesystem::path& folder, int64_t batch, int64_t num_steps);

/// A decoder of 4 layers, 128 wide, that predicts the bytes of a text. Held out: windows of the
/// last tenth.
Problem character_gpt(const std::filesystem::path& text, int64_t batch, int64_t num_steps);

}  // namespace curvature::benchmark
