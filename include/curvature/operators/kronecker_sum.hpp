#pragma once

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// A (x) B + c C (x) D (Kronecker) for symmetric A, C `[m, m]` and B, D `[n, n]`, A and B positive
/// definite, on plain vectors of length m n, the index of B varying fastest: two tasks' factors, or
/// a prior beside K-FAC.
///
/// Closed forms: diagonal, trace, Frobenius norm; and through the generalised eigenvectors of (C,
/// A) and (D, B), computed when asked for, the inverse and the determinant. `symmetry` is what the
/// caller knows of the sum. Martens, Grosse, ICML 2015, appendix B.
/// @throws ShapeError, DtypeDeviceError; NumericalError, by inverse and determinant, if A or B is
/// not positive definite, and by the inverse if the sum is singular or less definite than declared
OperatorPtr kronecker_sum(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c,
                          const at::Tensor& d, double coefficient = 1,
                          Symmetry symmetry = Symmetry::kSymmetric);

}  // namespace curvature
