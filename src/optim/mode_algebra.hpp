#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/space.hpp>

namespace curvature::optim {

/// X as `[before, d_mode, after]`, the axes before and after `mode` joined.
at::Tensor around(const at::Tensor& x, size_t mode);
/// X x_i F: multiplies axis `mode` of X `[d_1, ..., d_k]` by a matrix F `[p, d_mode]`.
at::Tensor mode_product(const at::Tensor& x, const at::Tensor& f, size_t mode);
/// Multiplies axis `mode` by the entries of a vector `[d_mode]`, in place.
void scale_mode(at::Tensor& x, const at::Tensor& factors, size_t mode);
/// A vector `[d_mode]` shaped so that it broadcasts along axis `mode` of a tensor of `num_modes`
/// axes.
at::Tensor along_mode(const at::Tensor& vector, size_t mode, size_t num_modes);
/// Slice j along `mode` is slice order[j] of x.
at::Tensor select_along_mode(const at::Tensor& x, const at::Tensor& order, size_t mode);
/// X_(i) X_(i)^T for the unfolding of X along `mode`: `[d_mode, d_mode]`, symmetric.
at::Tensor mode_gram(const at::Tensor& x, size_t mode);
/// Adds the lower triangle of the same to beta times `lower`; what is above holds no meaning then.
void add_mode_gram(at::Tensor& lower, const at::Tensor& x, size_t mode, double beta = 1);
/// Sum over all axes but `mode`, `[d_mode]`.
at::Tensor sum_other_modes(const at::Tensor& x, size_t mode);
/// Entries 1 x_1 l_1 ... x_k l_k of a list of vectors, `[d_1, ..., d_k]`.
at::Tensor outer_product(const std::vector<at::Tensor>& vectors);

}  // namespace curvature::optim
