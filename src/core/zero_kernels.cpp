#include <algorithm>

#include <ATen/ops/bmm.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "core/fast_kernels.hpp"
#include "core/kernels.hpp"

namespace curvature::detail {
namespace {

template <class Scalar>
bool is_zero(const at::Tensor& tensor) {
  constexpr int64_t kAtOnce = 1024;  // without a way out in between, so that the loop is vectorised
  const Scalar* const entries = tensor.const_data_ptr<Scalar>();
  for (int64_t begin = 0; begin < tensor.numel(); begin += kAtOnce) {
    const int64_t end = std::min(begin + kAtOnce, tensor.numel());
    bool is_other = false;
    for (int64_t i = begin; i < end; ++i) is_other |= entries[i] != 0;
    if (is_other) return false;
  }
  return true;
}

}  // namespace

bool is_zero_product(const at::Tensor& factor) {
  if (!ZeroProducts::on() || !factor.is_cpu() || factor.layout() != at::kStrided ||
      !factor.is_non_overlapping_and_dense()) {
    return false;
  }
  if (factor.scalar_type() == at::kFloat) return is_zero<float>(factor);
  return factor.scalar_type() == at::kDouble && is_zero<double>(factor);
}

at::Tensor bmm_kernel(c10::DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b) {
  if (is_zero_product(a) || is_zero_product(b)) {
    return at::zeros({a.size(0), a.size(1), b.size(2)}, a.options());
  }
  return at::_ops::bmm::redispatch(after_ours(keys), a, b);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward_kernel(
    c10::DispatchKeySet keys, const at::Tensor& output_gradient, const at::Tensor& input,
    const at::Tensor& weight, at::OptionalSymIntArrayRef bias_sizes, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
    c10::SymIntArrayRef output_padding, c10::SymInt groups, std::array<bool, 3> wanted) {
  if (is_zero_product(output_gradient)) {
    return {
        wanted[0] ? at::zeros_like(input) : at::Tensor(),
        wanted[1] ? at::zeros_like(weight) : at::Tensor(),
        wanted[2] ? at::zeros({output_gradient.size(1)}, output_gradient.options()) : at::Tensor()};
  }
  return at::_ops::convolution_backward::redispatch(
      after_ours(keys), output_gradient, input, weight, bias_sizes, stride, padding, dilation,
      transposed, output_padding, std::move(groups), wanted);
}

}  // namespace curvature::detail
