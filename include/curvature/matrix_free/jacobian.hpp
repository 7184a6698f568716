#pragma once

#include <curvature/core/linear_operator.hpp>
#include <curvature/matrix_free/options.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature {

/// Jacobian of the model's outputs for all examples with respect to the risk's parameters,
/// unscaled; the range is one tensor `[N, output...]` for the N examples of this worker. Loss,
/// targets, weights and weight decay play no role.
OperatorPtr jacobian(const EmpiricalRisk& risk, const MatrixFreeOptions& options = {});

/// Neural tangent kernel J J^T on `[N, output...]`, positive semidefinite.
OperatorPtr ntk(const EmpiricalRisk& risk, const MatrixFreeOptions& options = {});

/// Gradients of the examples' own losses under the risk's reduction (for `mean`: the mean over the
/// example's terms), one tensor `[count, shape...]` per parameter, for examples `first`, ...,
/// `first + count - 1`. Costs one forward and backward pass per example. Without weights and weight
/// decay.
TensorList per_example_gradients(const EmpiricalRisk& risk, int64_t first, int64_t count,
                                 const Observer& observer = {});

}  // namespace curvature
