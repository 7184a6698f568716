#pragma once

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// Q diag(l) Q^T for a square orthogonal operator Q and eigenvalues l `[n]`, on the range of Q.
///
/// Orthogonality is trusted. Closed forms: all but the diagonal, which needs a basis that is dense,
/// Kronecker, diagonal, or block-diagonal of these. Definiteness is read off l. Leading columns of
/// either factor of a Kronecker product that share one eigenvalue cost a product next to nothing.
/// @throws ShapeError, DtypeDeviceError
OperatorPtr eigen_decomposed(OperatorPtr basis, const at::Tensor& eigenvalues);
/// The same for eigenvectors as columns of a matrix `[n, n]`, on plain vectors.
OperatorPtr eigen_decomposed(const at::Tensor& basis, const at::Tensor& eigenvalues);

}  // namespace curvature
