#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_weight_norm_native.h>
#include <ATen/ops/norm_except_dim.h>

#include "core/fast_kernels.hpp"
#include "core/kernels.hpp"

namespace curvature::detail {

at::Tensor weight_norm_kernel(const at::Tensor& v, const at::Tensor& g, int64_t dim) {
  if (FastKernels::on() && at::GradMode::is_enabled()) {
    return v * (g / at::norm_except_dim(v, 2, dim));
  }
  return at::native::_weight_norm(v, g, dim);
}

}  // namespace curvature::detail
