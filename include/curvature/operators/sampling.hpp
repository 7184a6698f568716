#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/random.hpp>

namespace curvature {

/// Draws from N(0, A) as columns `[n, count]`, through a factor R with R R^T = A. Column i depends
/// on the seed and on `first + i` only, so drawing in chunks changes nothing beyond rounding.
/// @throws NotSupportedError if A has no factor in closed form, NumericalError if A is indefinite
at::Tensor sample(const LinearOperator& a, const RandomSource& random, int64_t count,
                  int64_t first = 0);
/// Draws from N(0, A^-1).
/// @throws NotSupportedError if A has no inverse, or the inverse no factor, in closed form;
/// NumericalError if A is singular or indefinite
at::Tensor sample_inverse(const LinearOperator& a, const RandomSource& random, int64_t count,
                          int64_t first = 0);

}  // namespace curvature
