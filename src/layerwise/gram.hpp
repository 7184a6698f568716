#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// Adds the lower triangle of X^T X to `sum` `[n, n]`, for rows X `[R, n]`; what is above the
/// diagonal holds no meaning until `mirror_lower`. A symmetric rank-R update in pieces: LibTorch
/// has none of its own, and half of the arithmetic of a full product is redundant.
void add_gram(at::Tensor& sum, const at::Tensor& rows);
/// The same for X `[N, S, n]`, whose rows may lie in memory column by column, as a convolution's
/// channels do.
void add_gram_of_examples(at::Tensor& sum, const at::Tensor& rows);
/// Turns a lower triangle `[n, n]` into the symmetric matrix, times `scale`, in place.
void mirror_lower(at::Tensor& lower, double scale = 1);

}  // namespace curvature::detail
