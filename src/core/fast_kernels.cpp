#include "core/fast_kernels.hpp"

#include <torch/library.h>

#include "core/kernels.hpp"

namespace curvature::detail {
namespace {

thread_local bool is_on = false;
thread_local bool zero_products_are_on = false;

}  // namespace

FastKernels::FastKernels() : before_(is_on) { is_on = true; }
FastKernels::~FastKernels() { is_on = before_; }
bool FastKernels::on() { return is_on; }

ZeroProducts::ZeroProducts() : before_(zero_products_are_on) { zero_products_are_on = true; }
ZeroProducts::~ZeroProducts() { zero_products_are_on = before_; }
bool ZeroProducts::on() { return zero_products_are_on; }

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
