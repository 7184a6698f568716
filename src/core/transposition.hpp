#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// The columns of `[n, K]` as contiguous rows `[K, n]`, in one pass over memory; LibTorch's copy
/// takes several times as long where K is small.
at::Tensor columns_as_rows(const at::Tensor& columns);

}  // namespace curvature::detail
