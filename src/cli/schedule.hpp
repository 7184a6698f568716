#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace curvature::cli {

/// How the learning rate changes from step to step.
struct Schedule {
  std::string name = "constant";  ///< of `schedule_names`
  int64_t warmup = 0;             ///< W: steps of a linear rise before
  int64_t num_steps = 1;          ///< S: of the whole run

  /// Whether every factor is 1.
  bool is_flat() const { return name == "constant" && warmup == 0; }
  /// What the learning rate is multiplied by in step t = 1, ..., S: t / W up to W, then 1
  /// (constant), 1 - p (linear) or (1 + cos(pi p)) / 2 (cosine), p = (t - 1 - W) / (S - W).
  double factor(int64_t step) const;
};

std::vector<std::string> schedule_names();

}  // namespace curvature::cli
