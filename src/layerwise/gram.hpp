#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// sum <- beta sum + X^T X for lower triangles `[n, n]` and rows X `[..., n]`; what is above the
/// diagonal holds no meaning until `mirror_lower`. A symmetric update in pieces: LibTorch has none
/// of its own, and half of the arithmetic of a full product is redundant.
void add_gram(at::Tensor& sum, const at::Tensor& rows, double beta = 1);
/// Turns a lower triangle `[n, n]` into the symmetric matrix, times `scale`, in place.
void mirror_lower(at::Tensor& lower, double scale = 1);

}  // namespace curvature::detail
