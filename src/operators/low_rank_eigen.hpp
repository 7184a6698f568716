#pragma once

#include <cstdint>
#include <string>

#include <ATen/core/Tensor.h>

#include "operators/support.hpp"

namespace curvature::detail {

/// Eigenvalues in ascending order and a full orthogonal basis of eigenvectors (column by column, as
/// LAPACK leaves them) of a positive semidefinite matrix `[n, n]` whose rank is at most `max_rank`.
/// Eigenvalues that are negative by rounding are 0.
/// @throws NumericalError if the matrix is not finite
SymmetricEigen semidefinite_eigen(const at::Tensor& matrix, int64_t max_rank,
                                  const std::string& who);

/// Whether `semidefinite_eigen` looks for the range first.
bool is_low_rank(int64_t n, int64_t max_rank);
/// What it does then: products with random signs (always the same) span the range (Halko,
/// Martinsson, Tropp, 2011), Householder reflections give a basis of it and of its complement, and
/// LAPACK decomposes what the range sees. About 10 n^2 r operations, most of them in products of
/// matrices, where LAPACK alone takes 9 n^3, many of them at the speed of memory; errors are the
/// same.
SymmetricEigen semidefinite_eigen_in_range(const at::Tensor& matrix, int64_t max_rank,
                                           const std::string& who);

}  // namespace curvature::detail
