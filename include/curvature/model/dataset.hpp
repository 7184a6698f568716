#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <curvature/core/space.hpp>

namespace curvature {

/// Some examples: the tensors the model takes, in order, and what the loss compares its output to.
/// Every tensor has the example axis first.
struct Batch {
  TensorList inputs;   ///< what `forward` takes, in order
  at::Tensor targets;  ///< may be undefined where no loss is involved
  at::Tensor weights;  ///< `[B]`, a non-negative weight per example; undefined means ones

  /// Number of examples.
  int64_t size() const { return inputs.front().size(0); }
};

/// Examples in batches of fixed content and order. Const methods may be called concurrently.
///
/// An operator passes over the batches once per product, so `batch(i)` must always return the same
/// examples.
class Dataset {
 public:
  virtual ~Dataset() = default;
  /// At least 1.
  virtual int64_t num_batches() const = 0;
  /// Batch number `index`; the last one may be smaller. Host memory or the model's device.
  virtual Batch batch(int64_t index) const = 0;
};
using DatasetPtr = std::shared_ptr<const Dataset>;

/// Tensors in memory (or memory-mapped, see io), cut into batches of `batch_size` along axis 0.
/// Half-precision inputs are widened to float32 batch by batch.
/// @throws DataError if there are no examples or the tensors' numbers of examples differ
/// @throws OptionError if `batch_size` is not positive
DatasetPtr tensor_dataset(TensorList inputs, at::Tensor targets, int64_t batch_size,
                          at::Tensor weights = {});

/// Batches as they are, e.g. collected from a `torch::data` loader.
DatasetPtr batch_dataset(std::vector<Batch> batches);

/// The user's own batches, made on demand: `load(i)` for 0 <= i < num_batches, always the same.
/// `load` must be callable concurrently.
DatasetPtr function_dataset(int64_t num_batches, std::function<Batch(int64_t)> load);

/// Gives the next batch of a pass, and nothing at its end.
using BatchStream = std::function<std::optional<Batch>()>;

/// Batches from an iterator that only moves forward: `open` starts a pass. The number of batches is
/// counted in a first pass; going back re-opens. Concurrent calls are serialised.
DatasetPtr stream_dataset(std::function<BatchStream()> open);

}  // namespace curvature
