#pragma once

#include <algorithm>
#include <vector>

#include <torch/torch.h>

#include <curvature/model/model.hpp>

namespace curvature::benchmark {

/// Examples in one random order after the other; the last ones of an order that do not fill a batch
/// are left out.
class ShuffledBatches {
 public:
  ShuffledBatches(int64_t num_examples, int64_t batch, uint64_t seed)
      : num_examples_(num_examples),
        batch_(std::min(batch, num_examples)),
        generator_(at::make_generator<at::CPUGeneratorImpl>(seed)) {}

  at::Tensor next() {
    if (!order_.defined() || begin_ + batch_ > num_examples_) {
      order_ = at::randperm(num_examples_, generator_, at::kLong);
      begin_ = 0;
    }
    begin_ += batch_;
    return order_.slice(0, begin_ - batch_, begin_);
  }

 private:
  int64_t num_examples_, batch_, begin_ = 0;
  at::Generator generator_;
  at::Tensor order_;
};

inline std::vector<NamedTensor> named_parameters(const torch::nn::Module& module) {
  std::vector<NamedTensor> parameters;
  for (const auto& item : module.named_parameters())
    parameters.push_back({item.key(), item.value()});
  return parameters;
}

}  // namespace curvature::benchmark
