#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// x . y for contiguous vectors `[n]` of one dtype, summed in double, without a temporary vector.
double inner(const at::Tensor& x, const at::Tensor& y);
/// X y for X `[k, n]` and y `[n]`, contiguous, float32, on the CPU: `[k]` in float64. Products and
/// pieces of their sums are float32, which loses no digit to n.
at::Tensor inner_rows(const at::Tensor& rows, const at::Tensor& y);
/// sqrt(x . x)
double norm(const at::Tensor& x);
/// The norm of all entries, of any shape and layout, with squares and pieces of the sum in the
/// dtype: infinite where those overflow. As fast as memory is read.
double quick_norm(const at::Tensor& x);

}  // namespace curvature::detail
