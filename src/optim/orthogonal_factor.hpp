#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::optim {

/// A = Q R with Q orthogonal and R upper triangular, `[n, n]` each.
struct QrFactors {
  at::Tensor orthogonal;
  at::Tensor triangle;
};

/// By Householder reflections: LAPACK's, or, where oneDNN multiplies faster than LAPACK's own
/// library, blocks of them in the compact WY form. Needs (8/3) n^3 operations.
QrFactors qr(const at::Tensor& matrix);

/// The lower triangle of R Q for a product that is known to be symmetric; what is above holds no
/// meaning. Needs (2/3) n^3 operations.
at::Tensor symmetric_product(const QrFactors& factors);

}  // namespace curvature::optim
