#include <algorithm>
#include <mutex>

#include <curvature/model/dataset.hpp>

#include "core/check.hpp"

namespace curvature {
namespace {

bool is_half(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kHalf || tensor.scalar_type() == at::kBFloat16;
}

class TensorDataset final : public Dataset {
 public:
  TensorDataset(TensorList inputs, at::Tensor targets, int64_t batch_size, at::Tensor weights)
      : inputs_(std::move(inputs)),
        targets_(std::move(targets)),
        weights_(std::move(weights)),
        batch_size_(batch_size) {
    CURVATURE_CHECK(batch_size > 0, OptionError,
                    "tensor_dataset: batch_size must be positive; got {}", batch_size);
    CURVATURE_CHECK(!inputs_.empty(), DataError, "tensor_dataset: expected at least one input");
    for (const at::Tensor& input : inputs_) {
      CURVATURE_CHECK(input.defined() && input.dim() > 0, DataError,
                      "tensor_dataset: an input has no example axis");
    }
    size_ = inputs_.front().size(0);
    CURVATURE_CHECK(size_ > 0, DataError, "tensor_dataset: there are no examples");
    for (size_t i = 1; i < inputs_.size(); ++i) check_count(inputs_[i], "inputs");
    if (targets_.defined()) check_count(targets_, "targets");
    if (weights_.defined()) check_count(weights_, "weights");
  }

  int64_t num_batches() const override { return (size_ - 1) / batch_size_ + 1; }

  Batch batch(int64_t index) const override {
    const int64_t begin = index * batch_size_;
    const int64_t count = std::min(batch_size_, size_ - begin);
    const auto cut = [&](const at::Tensor& all) {
      return all.defined() ? all.narrow(0, begin, count) : all;
    };
    Batch batch;
    for (const at::Tensor& input : inputs_) {
      const at::Tensor part = cut(input);
      batch.inputs.push_back(is_half(part) ? part.to(at::kFloat) : part);
    }
    const at::Tensor targets = cut(targets_);
    batch.targets = targets.defined() && is_half(targets) ? targets.to(at::kFloat) : targets;
    batch.weights = cut(weights_);
    return batch;
  }

 private:
  void check_count(const at::Tensor& tensor, const char* what) const {
    CURVATURE_CHECK(tensor.dim() > 0 && tensor.size(0) == size_, DataError,
                    "tensor_dataset: {} disagree on the number of examples; expected {}, got {}",
                    what, size_, detail::to_string(tensor.sizes()));
  }

  TensorList inputs_;
  at::Tensor targets_;
  at::Tensor weights_;
  int64_t batch_size_;
  int64_t size_;
};

class FunctionDataset final : public Dataset {
 public:
  FunctionDataset(int64_t num_batches, std::function<Batch(int64_t)> load)
      : num_batches_(num_batches), load_(std::move(load)) {
    CURVATURE_CHECK(num_batches > 0, DataError, "function_dataset: there are no batches");
  }
  int64_t num_batches() const override { return num_batches_; }
  Batch batch(int64_t index) const override { return load_(index); }

 private:
  int64_t num_batches_;
  std::function<Batch(int64_t)> load_;
};

class StreamDataset final : public Dataset {
 public:
  explicit StreamDataset(std::function<BatchStream()> open) : open_(std::move(open)) {
    const BatchStream pass = open_();
    while (pass()) ++num_batches_;
    CURVATURE_CHECK(num_batches_ > 0, DataError, "stream_dataset: there are no batches");
  }

  int64_t num_batches() const override { return num_batches_; }

  Batch batch(int64_t index) const override {
    const std::lock_guard lock(mutex_);
    if (!pass_ || index < next_) {
      pass_ = open_();
      next_ = 0;
    }
    std::optional<Batch> found;
    while (next_ <= index) {
      found = pass_();
      CURVATURE_CHECK(found.has_value(), DataError,
                      "stream_dataset: a pass ended after {} batches; expected {} as in the first",
                      next_, num_batches_);
      ++next_;
    }
    return *std::move(found);
  }

 private:
  std::function<BatchStream()> open_;
  int64_t num_batches_ = 0;
  mutable std::mutex mutex_;
  mutable BatchStream pass_;
  mutable int64_t next_ = 0;  // number of the batch that `pass_` gives next
};

}  // namespace

DatasetPtr tensor_dataset(TensorList inputs, at::Tensor targets, int64_t batch_size,
                          at::Tensor weights) {
  return std::make_shared<TensorDataset>(std::move(inputs), std::move(targets), batch_size,
                                         std::move(weights));
}

DatasetPtr batch_dataset(std::vector<Batch> batches) {
  const auto count = static_cast<int64_t>(batches.size());
  auto shared = std::make_shared<const std::vector<Batch>>(std::move(batches));
  return function_dataset(
      count, [shared](int64_t index) { return shared->at(static_cast<size_t>(index)); });
}

DatasetPtr function_dataset(int64_t num_batches, std::function<Batch(int64_t)> load) {
  return std::make_shared<FunctionDataset>(num_batches, std::move(load));
}

DatasetPtr stream_dataset(std::function<BatchStream()> open) {
  return std::make_shared<StreamDataset>(std::move(open));
}

}  // namespace curvature
