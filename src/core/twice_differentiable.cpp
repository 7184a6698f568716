// Operations whose second derivative LibTorch lacks or has wrong, put together from such that it
// differentiates rightly.

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_weight_norm_native.h>
#include <ATen/ops/hardsigmoid_backward_ops.h>
#include <ATen/ops/logical_and.h>
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

at::Tensor hardsigmoid_backward_kernel(c10::DispatchKeySet keys, const at::Tensor& output_gradient,
                                       const at::Tensor& input) {
  if (is_differentiated_by_ours(output_gradient, input)) {
    const at::Tensor is_sloped = at::logical_and(input.gt(-3), input.lt(3));
    return output_gradient * is_sloped.to(input.scalar_type()).div_(6);
  }
  return at::_ops::hardsigmoid_backward::redispatch(by_libtorch(keys), output_gradient, input);
}

}  // namespace curvature::detail
