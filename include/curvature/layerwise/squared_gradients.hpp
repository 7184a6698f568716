#pragma once

#include <curvature/core/progress.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature {

/// sum_n w_n g_n^2 entry by entry, one tensor per parameter: g_n the gradients of the examples' own
/// losses (as `per_example_gradients` has them), over all workers. Without weight decay.
///
/// Where a layer rule covers a parameter (see `kfac`) its part comes from the inputs and gradients
/// of the layer, all examples of a batch at once; the others cost one forward and backward pass per
/// example. One gradient, and once the products that square them.
TensorList squared_gradient_sums(const EmpiricalRisk& risk, const Observer& observer = {});

}  // namespace curvature
