#include "core/fast_kernels.hpp"

#include <ATen/core/grad_mode.h>
#include <torch/library.h>

#include "core/kernels.hpp"

namespace curvature::detail {
namespace {

template <class Tag>
thread_local bool is_on = false;

}  // namespace

template <class Tag>
ThreadSwitch<Tag>::ThreadSwitch() : before_(is_on<Tag>) {
  is_on<Tag> = true;
}

template <class Tag>
ThreadSwitch<Tag>::~ThreadSwitch() {
  is_on<Tag> = before_;
}

template <class Tag>
bool ThreadSwitch<Tag>::on() {
  return is_on<Tag>;
}

// Here and not in the header: who uses a switch links what registers the kernels below.
template class ThreadSwitch<FastKernelsTag>;
template class ThreadSwitch<ZeroProductsTag>;
template class ThreadSwitch<OneDnnEverywhereTag>;

/// The last stop before the CPU's own kernels that every product passes.
TORCH_LIBRARY_IMPL(aten, BackendSelect, library) {
  library.impl("mm", &mm_kernel);
  library.impl("addmm", &addmm_kernel);
  library.impl("bmm", &bmm_kernel);
  library.impl("_convolution", &convolution_kernel);
  library.impl("convolution_backward", &convolution_backward_kernel);
}

bool is_differentiated_by_ours(const at::Tensor& a, const at::Tensor& b) {
  const auto is_plain = [](const at::Tensor& x) {
    return x.is_cpu() && x.layout() == at::kStrided && !x.is_nested() &&
           (x.scalar_type() == at::kFloat || x.scalar_type() == at::kDouble);
  };
  return FastKernels::on() && at::GradMode::is_enabled() && is_plain(a) && is_plain(b) &&
         a.scalar_type() == b.scalar_type() && a.numel() > 0 && a.sizes().equals(b.sizes());
}

/// The first three are made of other operations above this level; the others are where LibTorch
/// writes down how a gradient is to be differentiated.
TORCH_LIBRARY_IMPL(aten, AutogradCPU, library) {
  library.impl("_convolution_double_backward", &convolution_double_backward_kernel);
  library.impl("_weight_norm", &weight_norm_kernel);
  library.impl("batch_norm", &batch_norm_kernel);
  library.impl("hardsigmoid_backward", &hardsigmoid_backward_kernel);
  library.impl("gelu_backward", &gelu_backward_kernel);
  library.impl("native_layer_norm_backward", &layer_norm_backward_kernel);
  library.impl("_softmax_backward_data", &softmax_backward_kernel);
}

}  // namespace curvature::detail
