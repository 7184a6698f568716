#include "cli/schedule.hpp"

#include <cmath>
#include <numbers>

namespace curvature::cli {

std::vector<std::string> schedule_names() { return {"constant", "cosine", "linear"}; }

double Schedule::factor(int64_t step) const {
  if (step <= warmup) return static_cast<double>(step) / static_cast<double>(warmup);
  if (name == "constant") return 1;
  const double progress =
      static_cast<double>(step - 1 - warmup) / static_cast<double>(num_steps - warmup);
  return name == "linear" ? 1 - progress : (1 + std::cos(std::numbers::pi * progress)) / 2;
}

}  // namespace curvature::cli
