#pragma once

#include <cstdint>
#include <vector>

#include <curvature/core/progress.hpp>
#include <curvature/spectral/estimate.hpp>
#include <curvature/spectral/operator_ref.hpp>
#include <curvature/spectral/scalar_function.hpp>

/// \file
/// What the estimators estimate, exactly: the operator's closed form where there is one, which
/// costs no products, and otherwise products with all n unit vectors.

namespace curvature {

/// How exact answers are computed.
struct ExactOptions {
  int64_t columns_at_once = 16;  ///< vectors multiplied together
  Observer observer = {};        ///< sees the products
};

/// Sum of the diagonal of a square operator; streams, no n-by-n tensor.
/// @throws ShapeError if `a` is not square, OptionError, NumericalError if a product is not finite
Estimate exact_trace(OperatorRef a, const ExactOptions& options = {});
/// Diagonal of a square operator; streams, no n-by-n tensor.
/// @throws as `exact_trace`
DiagonalEstimate exact_diagonal(OperatorRef a, const ExactOptions& options = {});
/// Frobenius norm from min(m, n) products (n if `a` has no adjoint); streams, no m-by-n tensor.
/// @throws OptionError, NumericalError if a product is not finite
FrobeniusEstimate exact_frobenius_norm(OperatorRef a, const ExactOptions& options = {});

/// tr f(A) of a symmetric operator from its eigenvalues: closed-form ones, or those of the dense
/// matrix in float64 (n products, O(n^3) operations, 16 n^2 bytes).
/// @throws NotSupportedError if `a` is not symmetric or its matrix does not fit into memory;
///   OptionError; NumericalError if f or a product is not finite
Estimate exact_trace_of_function(OperatorRef a, const ScalarFunction& f,
                                 const ExactOptions& options = {});
/// log det of a symmetric positive definite operator: in closed form, or as
/// `exact_trace_of_function`.
/// @throws NumericalError if an eigenvalue is not positive (up to rounding); as
///   `exact_trace_of_function`
Estimate exact_log_determinant(OperatorRef a, const ExactOptions& options = {});
/// Effective dimension tr A (A + d I)^-1 of a positive semidefinite operator for each d of
/// `dampings`, from its eigenvalues; `products` counts the work for all of them.
/// @throws OptionError for dampings that are not positive; NumericalError if an eigenvalue is
///   negative beyond rounding; as `exact_trace_of_function`
std::vector<Estimate> exact_effective_dimension(OperatorRef a, const std::vector<double>& dampings,
                                                const ExactOptions& options = {});

}  // namespace curvature
