#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// x . y for contiguous vectors `[n]` of one dtype, summed in double, without a temporary vector.
double inner(const at::Tensor& x, const at::Tensor& y);
/// sqrt(x . x)
double norm(const at::Tensor& x);

}  // namespace curvature::detail
