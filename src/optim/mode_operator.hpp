#pragma once

#include <vector>

#include <curvature/core/linear_operator.hpp>

namespace curvature::optim {

/// A tensor of the state in a dtype that operators have: float32 where it was less.
at::Tensor at_least_single(const at::Tensor& x);

/// S_1 (x) ... (x) S_k (Kronecker) for symmetric positive definite factors on plain vectors: a
/// matrix `[d, d]`, or a vector `[d]`, the diagonal of one. Tensors are shared. With all
/// factors matrices, or diagonals of at most 1024 entries, it has the closed forms of a Kronecker
/// product; longer diagonals are never made matrices.
OperatorPtr mode_operator(std::vector<at::Tensor> factors);

}  // namespace curvature::optim
