#pragma once

#include <functional>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// X -> A X in the flat view, `[n, K]` to `[m, K]`.
using MatrixMap = std::function<at::Tensor(const at::Tensor&)>;
/// The same in list form, each tensor `[shape..., K]`.
using ListMap = std::function<TensorList(const TensorList&)>;

/// An operator from functions. They must be linear, leave their operand alone, and may be called
/// concurrently; what they return is checked. `apply_adjoint` may be left out: symmetric operators
/// do not need it, for others `apply_adjoint` then throws NotSupportedError.
/// @throws OptionError if `apply` is empty. Products throw ShapeError or DtypeDeviceError if a
/// function returns something that does not fit `spec`.
OperatorPtr function_operator(OperatorSpec spec, MatrixMap apply, MatrixMap apply_adjoint = {});
OperatorPtr function_operator(OperatorSpec spec, ListMap apply, ListMap apply_adjoint = {});

}  // namespace curvature
