#pragma once

#include <cstdint>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/spectral/estimate.hpp>

/// Exact answers from products with unit vectors, a chunk of columns at a time: no n-by-n tensor.
namespace curvature::detail {

Estimate trace_by_columns(const LinearOperator& a, int64_t columns_at_once,
                          const Observer& observer);
DiagonalEstimate diagonal_by_columns(const LinearOperator& a, int64_t columns_at_once,
                                     const Observer& observer);
/// By rows if there are fewer of them and A has an adjoint.
FrobeniusEstimate frobenius_norm_by_columns(const LinearOperator& a, int64_t columns_at_once,
                                            const Observer& observer);

}  // namespace curvature::detail
