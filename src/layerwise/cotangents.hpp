#pragma once

#include <functional>

#include <curvature/layerwise/kfac.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature::detail {

/// Vectors to backpropagate, shaped as the output, scaled such that the sum of their outer products
/// is k times the (approximate) Hessian of the loss: calls `visit` for each.
void for_each_cotangent(const EmpiricalRisk& risk, const BatchRisk& batch, const at::Tensor& output,
                        const KfacOptions& options,
                        const std::function<void(const at::Tensor&)>& visit);

}  // namespace curvature::detail
