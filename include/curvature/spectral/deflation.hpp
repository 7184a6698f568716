#pragma once

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// (I - U U^T) A (I - U U^T) for a symmetric A and orthonormal columns U `[n, k]`, eigenvectors
/// usually: A without their part of its spectrum, where k eigenvalues are zero instead, so that a
/// density resolves the rest. A projection from both sides keeps symmetry and definiteness also for
/// eigenvectors that are not accurate (A - U L U^T would leave their errors in). Composed from
/// `low_rank_plus_diagonal` and `product`; costs one product of A and O(n k).
/// @throws NotSupportedError if `a` is not symmetric; ShapeError or DtypeDeviceError if `vectors`
/// do
///   not fit; OptionError if `a` is null
OperatorPtr deflated(const OperatorPtr& a, const at::Tensor& vectors);

}  // namespace curvature
