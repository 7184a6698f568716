#pragma once

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// When to stop and when to give up.
struct PivotedCholeskyLimits {
  int64_t max_columns;  ///< of L: a bound on the rank
  double negligible;    ///< part of |A|_F that may be left out
  /// Asked before each block with the columns there are, and the part of |A|_F that is left;
  /// false ends it.
  std::function<bool(int64_t columns, double left)> is_worth_it;
};

/// L^T `[k, n]` with A = L L^T + what is negligible, for a semidefinite matrix `[n, n]`, in n k^2
/// to 2 n k^2 operations: Cholesky's factor with the largest remaining diagonal element, or one
/// of 0.8 of it at least, as the next pivot. Rows are not exchanged: L is no triangle.
/// Undefined where it was not worth it.
/// Harbrecht, Peters, Schneider, Appl. Numer. Math. 62, 2012, algorithm 1.
at::Tensor pivoted_cholesky(const at::Tensor& matrix, const PivotedCholeskyLimits& limits);

/// |A|_F, summed in float64.
double frobenius_norm(const at::Tensor& x);

}  // namespace curvature::detail
