#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>

#include "core/fast_kernels.hpp"
#include "core/kernels.hpp"
#include "core/matrix_product.hpp"

namespace curvature::detail {
namespace {

/// What comes after this library's kernels.
c10::DispatchKeySet rest_of(c10::DispatchKeySet keys) {
  return keys &
         c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::BackendSelect);
}

}  // namespace

at::Tensor mm_kernel(c10::DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b) {
  if (FastKernels::on() && is_for_one_dnn(a, b)) return by_one_dnn(a, b);
  return at::_ops::mm::redispatch(rest_of(keys), a, b);
}

at::Tensor addmm_kernel(c10::DispatchKeySet keys, const at::Tensor& input, const at::Tensor& a,
                        const at::Tensor& b, const at::Scalar& beta, const at::Scalar& alpha) {
  const bool plain = beta.toDouble() == 1 && alpha.toDouble() == 1;
  if (FastKernels::on() && plain && input.scalar_type() == at::kFloat && is_for_one_dnn(a, b)) {
    return by_one_dnn(a, b).add_(input);
  }
  return at::_ops::addmm::redispatch(rest_of(keys), input, a, b, beta, alpha);
}

}  // namespace curvature::detail
