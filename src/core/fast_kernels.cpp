#include "core/fast_kernels.hpp"

#include <torch/library.h>

#include "core/kernels.hpp"

namespace curvature::detail {
namespace {

thread_local bool is_on = false;

}  // namespace

FastKernels::FastKernels() : before_(is_on) { is_on = true; }
FastKernels::~FastKernels() { is_on = before_; }
bool FastKernels::on() { return is_on; }

/// The last stop before the CPU's own kernels that every product passes.
TORCH_LIBRARY_IMPL(aten, BackendSelect, library) {
  library.impl("mm", &mm_kernel);
  library.impl("addmm", &addmm_kernel);
}

/// Both are made of other operations above this level.
TORCH_LIBRARY_IMPL(aten, AutogradCPU, library) {
  library.impl("_convolution_double_backward", &convolution_double_backward_kernel);
  library.impl("batch_norm", &batch_norm_kernel);
}

}  // namespace curvature::detail
