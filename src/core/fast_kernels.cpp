#include "core/fast_kernels.hpp"

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

/// The last stop before the CPU's own kernels that every product passes.
TORCH_LIBRARY_IMPL(aten, BackendSelect, library) {
  library.impl("mm", &mm_kernel);
  library.impl("addmm", &addmm_kernel);
  library.impl("bmm", &bmm_kernel);
  library.impl("convolution_backward", &convolution_backward_kernel);
}

/// Both are made of other operations above this level.
TORCH_LIBRARY_IMPL(aten, AutogradCPU, library) {
  library.impl("_convolution_double_backward", &convolution_double_backward_kernel);
  library.impl("batch_norm", &batch_norm_kernel);
}

}  // namespace curvature::detail
