#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::optim {

/// |A|_2 of a symmetric positive semidefinite or an antisymmetric matrix, to the rounding of its
/// dtype: small ones by their eigenvalues, others by Lanczos' method, a few tens of products with a
/// vector. The start vector is random and always the same.
double spectral_norm(const at::Tensor& a, bool antisymmetric = false);

}  // namespace curvature::optim
