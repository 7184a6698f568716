#pragma once

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// diag(d) + U diag(c) U^T with d `[n]`, U `[n, r]`, c `[r]`, on plain vectors. A product costs
/// O(n r) per column.
///
/// Closed forms: diagonal, trace, Frobenius norm; for nonzero d the determinant (matrix determinant
/// lemma), the inverse (Woodbury) and a square-root factor (also of the inverse), O(n r^2); for
/// constant d eigenvalues and functions too. `symmetry` is what the caller knows beyond what the
/// signs of d and c tell.
/// @throws ShapeError, DtypeDeviceError
OperatorPtr low_rank_plus_diagonal(const at::Tensor& d, const at::Tensor& u, const at::Tensor& c,
                                   Symmetry symmetry = Symmetry::kSymmetric);
/// The same on a given space of size n.
OperatorPtr low_rank_plus_diagonal(const at::Tensor& d, const at::Tensor& u, const at::Tensor& c,
                                   Space space, Symmetry symmetry = Symmetry::kSymmetric);

/// U diag(c) U^T = sum_i c_i u_i u_i^T, on plain vectors: `low_rank_plus_diagonal` with d = 0.
OperatorPtr outer_products(const at::Tensor& u, const at::Tensor& c);

}  // namespace curvature
