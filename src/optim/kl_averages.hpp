#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include <c10/core/ScalarType.h>

namespace curvature::optim {

/// Eigenvalues below this part of their mean are rounding.
inline double default_floor(at::ScalarType dtype) { return dtype == at::kDouble ? 1e-18 : 1e-7; }

/// A mean square below this sets no scale: what is divided by it would overflow.
inline double smallest_mean_square(at::ScalarType dtype) {
  constexpr double kDouble =
      std::numeric_limits<double>::min() / std::numeric_limits<double>::epsilon();
  constexpr double kFloat =
      std::numeric_limits<float>::min() / std::numeric_limits<float>::epsilon();
  return dtype == at::kDouble ? kDouble : kFloat;
}

/// The weight of what was seen before step t; debiased, the first value counts as one sample and is
/// forgotten like one.
inline double decay_at(double beta, bool debias, int64_t t) {
  return debias ? 1 - (1 - beta) / (1 - std::pow(beta, static_cast<double>(t))) : beta;
}

}  // namespace curvature::optim
