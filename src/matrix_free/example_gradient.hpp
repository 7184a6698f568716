#pragma once

#include <ATen/core/Tensor.h>

#include <curvature/model/empirical_risk.hpp>

namespace curvature::detail {

/// Gradient of each example's own loss with respect to its part of `output` (same shape): the sum
/// of its terms for `sum`, divided by the example's number of terms (or output numbers) for `mean`.
/// Without weights.
at::Tensor example_loss_gradient(const EmpiricalRisk& risk, const BatchRisk& batch,
                                 const at::Tensor& output);

}  // namespace curvature::detail
