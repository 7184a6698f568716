#pragma once

#include <vector>

#include <curvature/optim/covariance_estimator.hpp>

namespace curvature::optim {

/// A factory whose estimators see tensors of three axes or more with their two longest axes last.
///
/// A kernel of a convolution is `[out, in, height, width]`. Products along `in` would be thousands
/// of narrow ones; with the short axes first they are a few large ones. Operators
/// that an estimator hands out must be put back: `in_parameter_order`.
EstimatorFactory with_long_axes_last(EstimatorFactory inner);

/// One item for each axis, in the parameter's own order.
std::vector<at::Tensor> in_parameter_order(const ParameterView& view,
                                           const std::vector<at::Tensor>& items);
/// A tensor of the view's shape with its axes in the parameter's own order.
at::Tensor in_parameter_order(const ParameterView& view, const at::Tensor& x);

}  // namespace curvature::optim
