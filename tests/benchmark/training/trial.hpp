#pragma once

#include <cstdint>

#include "method.hpp"
#include "problem.hpp"

namespace curvature::benchmark {

/// One training.
struct Trial {
  const Problem* problem;
  const Method* method;
  double learning_rate;  ///< the largest, after the warm-up
  uint64_t seed;
  int64_t evaluate_every;  ///< steps
};

/// What makes it this trial and no other: `task`, `method`, `learning_rate`, `seed`, and the sizes
/// of the problem.
Json identity(const Trial& trial);

/// Trains, and adds to the identity: `curve`, a list of [steps, held-out loss, processor seconds];
/// `final_loss`, null if training diverged; `seconds` of the processor and `wall_seconds` for all
/// steps. Evaluations are not in the times.
Json run(const Trial& trial);

}  // namespace curvature::benchmark
