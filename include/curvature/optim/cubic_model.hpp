#pragma once

#include <ATen/core/Tensor.h>

namespace curvature::optim {

/// A minimiser of the cubic model, and its value.
struct CubicMinimum {
  at::Tensor step;  ///< `[k]`
  double value;     ///< at most 0
};

/// Global minimiser of g^T h + h^T H h / 2 + coefficient / 6 |h|^3 for H `[k, k]` and g `[k]`, both
/// float64 on the CPU: h = -(H + s I)^-1 g with s = coefficient |h| / 2 and H + s I semidefinite.
/// In the hard case (g without part along the lowest eigenvector, and that the way down) the
/// missing length is added along this eigenvector. Costs an eigendecomposition. Nesterov, Polyak,
/// Math. Program. 108, 2006, section 5.
CubicMinimum minimize_cubic(const at::Tensor& hessian, const at::Tensor& gradient,
                            double coefficient);

}  // namespace curvature::optim
