#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// X^T Y for X `[n, p]` and Y `[n, q]`, float64 on the CPU. Long columns are summed piece by piece:
/// a single matrix product in float32 loses three digits over a million rows.
at::Tensor inner_products(const at::Tensor& x, const at::Tensor& y);
/// Writes X C to `y` `[n, q]` for X `[n, p]` and C `[p, q]`, float64 on the CPU; `y` may be columns
/// of X, since rows are taken piece by piece. Fastest for contiguous columns.
void combine(const at::Tensor& x, const at::Tensor& coefficients, const at::Tensor& y);

}  // namespace curvature::detail
