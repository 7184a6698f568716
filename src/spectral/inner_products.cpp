#include "spectral/inner_products.hpp"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros.h>

namespace curvature::detail {

at::Tensor inner_products(const at::Tensor& x, const at::Tensor& y) {
  const int64_t n = x.size(0);
  // Accelerators sum in many short pieces anyway.
  const int64_t piece = x.is_cpu() ? 8192 : std::max<int64_t>(n, 1);
  at::Tensor total = at::zeros({x.size(1), y.size(1)}, x.options().dtype(at::kDouble));
  for (int64_t begin = 0; begin < n; begin += piece) {
    const int64_t size = std::min(piece, n - begin);
    total += x.narrow(0, begin, size).t().mm(y.narrow(0, begin, size));
  }
  return total.to(at::kCPU);
}

}  // namespace curvature::detail
