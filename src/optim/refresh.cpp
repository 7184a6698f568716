#include <curvature/optim/refresh.hpp>

#include "core/check.hpp"

namespace curvature::optim {

bool refresh_is_due(const RefreshOptions& options, int64_t t, int64_t index) {
  if (t <= options.warm || t == options.start) return true;
  const int64_t turn = options.stagger ? index : 0;
  return t > options.start && (t - options.start + turn) % options.interval == 0;
}

void check_refresh(const RefreshOptions& options) {
  CURVATURE_CHECK(options.interval >= 1 && options.start >= 1 && options.warm >= 0, OptionError,
                  "refresh: expected interval >= 1, start >= 1 and warm >= 0, got {}, {} and {}",
                  options.interval, options.start, options.warm);
  CURVATURE_CHECK(options.tolerance >= 0 && options.tolerance <= 1, OptionError,
                  "refresh: expected a tolerance in [0, 1], got {}", options.tolerance);
}

}  // namespace curvature::optim
