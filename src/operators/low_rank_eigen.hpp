#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "operators/support.hpp"

namespace curvature::detail {

/// Eigenvalues in ascending order and a full orthogonal basis of eigenvectors (column by column, as
/// LAPACK leaves them) of a positive semidefinite matrix `[n, n]` whose rank is at most `max_rank`.
/// Eigenvalues that are negative by rounding are 0. Where `max_rank` is less than n, the range is
/// looked for first, and eigenvalues that LAPACK's rounding would hide may be 0.
/// @throws NumericalError if the matrix is not finite
SymmetricEigen semidefinite_eigen(const at::Tensor& matrix, int64_t max_rank,
                                  const std::string& who);

/// What it does where the range is small: products with random signs (always the same) span it
/// (Halko, Martinsson, Tropp, "Finding structure with randomness", 2011, algorithm 4.2),
/// Householder reflections give a basis of it and of its complement, and LAPACK decomposes what the
/// range sees. About 10 n^2 r operations for r vectors, most of them in products of matrices, where
/// LAPACK alone takes 9 n^3, many of them at the speed of memory; errors are the same.
SymmetricEigen semidefinite_eigen_in_range(const at::Tensor& matrix, int64_t max_rank,
                                           const std::string& who);

}  // namespace curvature::detail
