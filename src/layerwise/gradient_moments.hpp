#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <curvature/core/progress.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature::detail {

/// A parameter as a matrix: axis 0 by all others, row-major; a vector has one column.
struct MatrixSize {
  int64_t rows;
  int64_t columns;
};
MatrixSize matrix_size(const Shape& shape);

/// Visits the gradients of the examples' own losses in chunks, each times the square root of its
/// example's weight: `[K, rows, columns]` in float64 for each parameter. One forward and backward
/// pass per example.
void for_each_gradient_chunk(const EmpiricalRisk& risk, const Observer& observer,
                             const std::function<void(const TensorList& gradients)>& visit);

/// sum_k P_k S P_k^T `[rows, rows]` for P `[K, rows, columns]`; without S it is the identity.
at::Tensor row_moment(const at::Tensor& p, const at::Tensor& s = {});

/// f sum_n w_n G_n G_n^T and f sum_n w_n G_n^T G_n of a parameter, in float64.
struct KroneckerMoments {
  at::Tensor rows;     ///< `[rows, rows]`
  at::Tensor columns;  ///< `[columns, columns]`
};

/// f: 1 over the number of examples for `mean`.
double second_moment_scale(const EmpiricalRisk& risk);

/// Of all parameters, in one pass. `who` asks.
/// @throws NotSupportedError if a side is too long; NumericalError if they are not finite
std::vector<KroneckerMoments> kronecker_moments(const EmpiricalRisk& risk, const std::string& who,
                                                const Observer& observer);

}  // namespace curvature::detail
