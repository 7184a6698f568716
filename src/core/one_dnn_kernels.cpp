#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "core/fast_kernels.hpp"
#include "core/kernels.hpp"
#include "core/matrix_product.hpp"

namespace curvature::detail {

at::Tensor mm_kernel(c10::DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b) {
  if (is_zero_product(a) || is_zero_product(b)) {
    return at::zeros({a.size(0), b.size(1)}, a.options());
  }
  if (FastKernels::on() && is_for_one_dnn(a, b)) return by_one_dnn(a, b);
  return at::_ops::mm::redispatch(after_ours(keys), a, b);
}

at::Tensor addmm_kernel(c10::DispatchKeySet keys, const at::Tensor& input, const at::Tensor& a,
                        const at::Tensor& b, const at::Scalar& beta, const at::Scalar& alpha) {
  const bool plain = beta.toDouble() == 1 && alpha.toDouble() == 1;
  if (FastKernels::on() && plain && input.scalar_type() == at::kFloat && is_for_one_dnn(a, b)) {
    return by_one_dnn(a, b).add_(input);
  }
  return at::_ops::addmm::redispatch(after_ours(keys), input, a, b, beta, alpha);
}

}  // namespace curvature::detail
