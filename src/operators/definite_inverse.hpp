#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// The inverse of a symmetric positive definite matrix `[n, n]`, of which the lower triangle is
/// read; nothing if it is not positive definite. By LAPACK, or by blocks where that is faster.
std::optional<at::Tensor> definite_inverse(const at::Tensor& matrix);

/// The same, `block` columns at a time: a Cholesky factorisation, and from it the inverse from the
/// last columns to the first. n^3 operations as in LAPACK, but nearly all of them in products of
/// matrices (`matrix_product`). As accurate as LAPACK up to a factor of about 3.
std::optional<at::Tensor> definite_inverse_by_blocks(const at::Tensor& matrix, int64_t block);

}  // namespace curvature::detail
