#pragma once

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// The matrix `[m, n]` as an operator between plain vectors.
///
/// The tensor is shared, not copied: do not write to it while the operator lives. `symmetry` is
/// what the caller knows of the matrix; it is trusted. All closed forms exist (O(n^3) for
/// determinant, inverse, eigenvalues, functions).
/// @throws ShapeError, DtypeDeviceError unless it is a float32 or float64 matrix
OperatorPtr dense(const at::Tensor& matrix, Symmetry symmetry = Symmetry::kGeneral);
/// The same between given spaces of sizes n and m.
OperatorPtr dense(const at::Tensor& matrix, Space domain, Space range,
                  Symmetry symmetry = Symmetry::kGeneral);

}  // namespace curvature
