#include "cli/batch_order.hpp"

#include <algorithm>

#include <ATen/core/Tensor.h>

namespace curvature::cli {

BatchOrder::BatchOrder(const Problem& problem, const ProblemOptions& options, bool shuffled,
                       const RandomSource& random)
    : problem_(&problem),
      options_(&options),
      shuffled_(shuffled),
      random_(random),
      steps_per_epoch_((problem.num_examples() - 1) / options.batch_size + 1) {}

DatasetPtr BatchOrder::batch(int64_t step) {
  const int64_t begin = (step - 1) % steps_per_epoch_ * options_->batch_size;
  const int64_t count = std::min(options_->batch_size, problem_->num_examples() - begin);
  if (shuffled_ && epoch_ != epoch_of(step)) {
    epoch_ = epoch_of(step);
    permutation_ = random_.uniform(static_cast<uint64_t>(epoch_), problem_->num_examples())
                       .argsort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  }
  const auto part = [&](const at::Tensor& examples) {
    return shuffled_ ? examples.index_select(0, permutation_.narrow(0, begin, count))
                     : examples.narrow(0, begin, count);
  };
  TensorList inputs;
  for (const at::Tensor& input : problem_->inputs) inputs.push_back(part(input));
  return make_data(std::move(inputs), part(problem_->targets), *options_);
}

}  // namespace curvature::cli
