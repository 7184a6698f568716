#pragma once

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature::detail {

/// On matrices `[m, n]` (flat, row-major): column j becomes Q diag(l_j) Q^T times it, for a basis Q
/// `[m, m]` and eigenvalues l_j = column j of `eigenvalues` `[m, n]`. The Kronecker product B x
/// diag(a) with a million entries in a, and its eigenvalue-corrected relatives. Closed forms: all.
OperatorPtr columns_in_basis(const at::Tensor& basis, const at::Tensor& eigenvalues);

}  // namespace curvature::detail
