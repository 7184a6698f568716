#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// Adds the sum over examples and positions of g g^T, g `[N, S, m]`, to `sum` `[m, m]`.
void add_outer_products(const at::Tensor& g, at::Tensor& sum);

}  // namespace curvature::detail
