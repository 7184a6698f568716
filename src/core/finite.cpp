#include "core/finite.hpp"

#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>

namespace curvature::detail {

bool is_finite(const at::Tensor& x) {
  if (at::isIntegralType(x.scalar_type(), /*includeBool=*/true)) return true;
  const at::NoGradGuard no_grad;
  // A sum is not finite if a term is not; it may overflow without.
  const at::Tensor sum = x.sum(c10::promoteTypes(x.scalar_type(), at::kFloat));
  return std::isfinite(sum.item<double>()) || at::isfinite(x).all().item<bool>();
}

}  // namespace curvature::detail
