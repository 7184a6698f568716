#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// (P x)_i = x_{indices[i]} on plain vectors. P is orthogonal: its adjoint is its inverse.
/// Closed forms: diagonal, trace, determinant (parity), Frobenius norm, inverse.
/// @throws OptionError unless `indices` holds each of 0, ..., n - 1 once
OperatorPtr permutation(const std::vector<int64_t>& indices,
                        const at::TensorOptions& options = at::kDouble);
/// The same between two spaces of size n.
OperatorPtr permutation(const std::vector<int64_t>& indices, Space domain, Space range,
                        const at::TensorOptions& options = at::kDouble);

}  // namespace curvature
