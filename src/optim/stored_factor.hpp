#pragma once

#include <cstdint>

#include <curvature/core/random.hpp>

#include "optim/structured_factor.hpp"

/// Factors that are kept in fewer bits than arithmetic has.
namespace curvature::optim {

/// Parts in another dtype, contiguous: to the nearest number.
Parts parts_in(const Parts& parts, at::ScalarType dtype);

/// A factor that has moved a little, as it is kept: to the nearest number, but in bfloat16 up or
/// down at random so that the mean is right. There most steps are less than half of a number's
/// distance to the next and would be lost. Numbers are those of one stream, an entry each.
Parts stored(const Parts& k, at::ScalarType dtype, const RandomSource& random, uint64_t stream);

}  // namespace curvature::optim
