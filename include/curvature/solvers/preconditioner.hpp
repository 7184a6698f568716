#pragma once

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// diag(|d| + damping)^-1 for d `[n]` in the flat view of `space`: the Jacobi preconditioner of an
/// operator with diagonal d, positive definite whatever the signs in d are. Entries below a
/// millionth of the largest are raised to that, so that parameters that do not matter keep a finite
/// step. A Nystrom preconditioner is in `spectral`; any other approximate inverse will do as well.
/// @throws ShapeError, DtypeDeviceError unless d is a float32 or float64 vector of the size of the
///   space; DataError if it is not finite; OptionError for a negative damping
OperatorPtr diagonal_preconditioner(const at::Tensor& d, Space space, double damping = 0);

}  // namespace curvature
