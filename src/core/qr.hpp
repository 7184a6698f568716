#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// A = Q R for a matrix `[m, n]`, m >= n, with Q orthogonal `[m, m]` and R upper triangular `[m,
/// n]`.
struct QrFactors {
  at::Tensor orthogonal;
  at::Tensor triangle;
};

/// By Householder reflections: LAPACK's, or, where oneDNN multiplies faster than LAPACK's own
/// library, blocks of them in the compact WY form. Needs (8/3) n^3 operations for square matrices.
QrFactors qr(const at::Tensor& matrix);

/// For a square matrix the lower triangle of R Q, a product that is known to be symmetric; what is
/// above holds no meaning. Needs (2/3) n^3 operations.
at::Tensor symmetric_product(const QrFactors& factors);

}  // namespace curvature::detail
