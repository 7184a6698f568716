#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "operators/support.hpp"

namespace curvature::detail {

/// Eigenvalues in ascending order and a full orthogonal basis of eigenvectors (column by column, as
/// LAPACK leaves them) of a positive semidefinite matrix `[n, n]` whose rank is at most `max_rank`.
/// Eigenvalues that are negative by rounding are 0. Where `max_rank` is less than n, the range is
/// looked for first, and eigenvalues that LAPACK's rounding would hide may be 0. A matrix that is
/// moved in frees its memory before that of the eigenvectors is taken, where that is the way.
/// @throws NumericalError if the matrix is not finite
SymmetricEigen semidefinite_eigen(at::Tensor matrix, int64_t max_rank, const std::string& who);

/// What it does where the range is small: a pivoted Cholesky factor spans it in float32, products
/// with random signs (always the same) in float64 (Halko, Martinsson, Tropp, "Finding structure
/// with randomness", 2011, algorithm 4.2). Householder reflections give a basis of it and of its
/// complement, and LAPACK decomposes what the range sees. About 7 n^2 r operations for r vectors,
/// 10 in float64, most of them in products of matrices, where LAPACK alone takes 9 n^3, many of
/// them at the speed of memory; errors are about LAPACK's in float64, up to twice those in float32.
SymmetricEigen semidefinite_eigen_in_range(const at::Tensor& matrix, int64_t max_rank,
                                           const std::string& who);

}  // namespace curvature::detail
