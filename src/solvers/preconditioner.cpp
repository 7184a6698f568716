#include <curvature/solvers/preconditioner.hpp>

#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>

#include <curvature/operators/diagonal.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"

namespace curvature {

OperatorPtr diagonal_preconditioner(const at::Tensor& d, Space space, double damping) {
  constexpr double kFloor = 1e-6;
  CURVATURE_CHECK(d.defined() && detail::is_finite(d), DataError,
                  "diagonal_preconditioner: the diagonal is not finite");
  CURVATURE_CHECK(damping >= 0 && std::isfinite(damping), OptionError,
                  "diagonal_preconditioner: damping must be finite and not negative; got {}",
                  damping);
  const at::Tensor sizes = d.abs() + damping;
  const double largest = sizes.numel() == 0 ? 0 : sizes.max().item<double>();
  return curvature::diagonal(sizes.clamp_min(largest > 0 ? kFloor * largest : 1.0).reciprocal(),
                             std::move(space));
}

}  // namespace curvature
