#pragma once

#include <limits>

#include <c10/core/ScalarType.h>

namespace curvature::detail {

/// Distance of 1 to the next number, float32 or float64.
inline double epsilon(at::ScalarType dtype) {
  return dtype == at::kDouble ? std::numeric_limits<double>::epsilon()
                              : static_cast<double>(std::numeric_limits<float>::epsilon());
}

}  // namespace curvature::detail
