#pragma once

#include <cmath>
#include <cstdint>

#include <c10/core/ScalarType.h>

namespace curvature::optim {

/// Eigenvalues below this part of their mean are rounding.
inline double default_floor(at::ScalarType dtype) { return dtype == at::kDouble ? 1e-18 : 1e-7; }

/// The weight of what was seen before step t; debiased, the first value counts as one sample and is
/// forgotten like one.
inline double decay_at(double beta, bool debias, int64_t t) {
  return debias ? 1 - (1 - beta) / (1 - std::pow(beta, static_cast<double>(t))) : beta;
}

}  // namespace curvature::optim
