#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// Adds to `sum` `[m, n]` the squares of the examples' gradients along bases: for example n the
/// entries of (Q_b^T (sum_s g_ns a_ns^T) Q_a)^2, for g `[N, S, m]`, a `[N, S, n]`, Q_b `[m, m]` and
/// Q_a `[n, n]`; undefined bases are
/// identities. George et al. 2018, equation 7. Few gradients of examples exist at a time.
void add_squared_gradients(const at::Tensor& g, const at::Tensor& a, const at::Tensor& basis_b,
                           const at::Tensor& basis_a, at::Tensor& sum);

/// The same for one-hot a, given by the positions of their ones `[N, S]` (-1 for none), without
/// rotation: gradients of an example with the same index are summed, then squared.
void add_squared_gradients_of_one_hot(const at::Tensor& g, const at::Tensor& indices,
                                      at::Tensor& sum);

}  // namespace curvature::detail
