#pragma once

#include <cstdint>

#include <curvature/core/random.hpp>
#include <curvature/model/dataset.hpp>

#include "cli/problem.hpp"

namespace curvature::cli {

/// Which examples each step of a training takes: an epoch passes over all of them once, its last
/// batch may be short. What a step takes depends on the seed and its number alone.
class BatchOrder {
 public:
  /// In file order, or shuffled: a permutation for each epoch, drawn from `random`.
  BatchOrder(const Problem& problem, const ProblemOptions& options, bool shuffled,
             const RandomSource& random);

  int64_t batch_size() const { return options_->batch_size; }
  int64_t steps_per_epoch() const { return steps_per_epoch_; }
  /// Of step 1, 2, ...; counts from 1.
  int64_t epoch_of(int64_t step) const { return (step - 1) / steps_per_epoch_ + 1; }
  /// The examples of a step, as one batch.
  DatasetPtr batch(int64_t step);

 private:
  const Problem* problem_;
  const ProblemOptions* options_;
  bool shuffled_;
  RandomSource random_;
  int64_t steps_per_epoch_;
  int64_t epoch_ = 0;  ///< of `permutation_`
  at::Tensor permutation_;
};

}  // namespace curvature::cli
