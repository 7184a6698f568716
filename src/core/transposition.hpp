#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// The columns of `[n, K]` as contiguous rows `[K, n]`, block by block through a core's first
/// cache; LibTorch's copy takes three times as long where n or K is small.
at::Tensor columns_as_rows(const at::Tensor& columns);

}  // namespace curvature::detail
