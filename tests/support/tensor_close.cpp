#include "support/tensor_close.hpp"

#include <ATen/ATen.h>
#include <torch/cuda.h>

namespace curvature::testing {

boost::test_tools::assertion_result close(const at::Tensor& actual, const at::Tensor& expected,
                                          Tolerance tolerance) {
  boost::test_tools::assertion_result result(false);
  if (!actual.defined() || !expected.defined()) {
    result.message() << "a tensor is undefined";
    return result;
  }
  if (actual.sizes() != expected.sizes() || actual.scalar_type() != expected.scalar_type()) {
    result.message() << "expected " << expected.scalar_type() << expected.sizes() << ", got "
                     << actual.scalar_type() << actual.sizes();
    return result;
  }
  const at::Tensor a = actual.detach().to(at::kCPU, at::kDouble).reshape(-1);
  const at::Tensor e = expected.detach().to(at::kCPU, at::kDouble).reshape(-1);
  const double error = (a - e).norm().item<double>();
  const double scale = e.norm().item<double>();
  if (error <= tolerance.absolute + tolerance.relative * scale) return true;
  const auto worst = a.numel() == 0 ? int64_t{0} : (a - e).abs().argmax().item<int64_t>();
  result.message() << "|actual - expected| = " << error << ", |expected| = " << scale
                   << "; largest at flat index " << worst << ": " << a[worst].item<double>()
                   << " instead of " << e[worst].item<double>();
  return result;
}

at::Device test_device() {
  return torch::cuda::is_available() ? at::Device(at::kCUDA, 0) : at::Device(at::kCPU);
}

}  // namespace curvature::testing
