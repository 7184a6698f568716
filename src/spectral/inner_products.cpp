#include "spectral/inner_products.hpp"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include "core/inner_product.hpp"

namespace curvature::detail {

at::Tensor inner_products(const at::Tensor& x, const at::Tensor& y) {
  const int64_t n = x.size(0);
  if (x.is_cpu() && y.size(1) == 1 && x.t().is_contiguous() && y.is_contiguous()) {
    const at::Tensor column = y.select(1, 0);
    if (x.size(1) == 1) return at::full({1, 1}, inner(x.select(1, 0), column), at::kDouble);
    if (x.scalar_type() == at::kFloat) return inner_rows(x.t(), column).unsqueeze(1);
  }
  // Accelerators sum in many short pieces anyway.
  const int64_t piece = x.is_cpu() ? 8192 : std::max<int64_t>(n, 1);
  at::Tensor total = at::zeros({x.size(1), y.size(1)}, x.options().dtype(at::kDouble));
  for (int64_t begin = 0; begin < n; begin += piece) {
    const int64_t size = std::min(piece, n - begin);
    total += x.narrow(0, begin, size).t().mm(y.narrow(0, begin, size));
  }
  return total.to(at::kCPU);
}

void combine(const at::Tensor& x, const at::Tensor& coefficients, const at::Tensor& y) {
  constexpr int64_t kPiece = 16384;
  const int64_t n = x.size(0);
  const at::Tensor map = coefficients.t().to(x.options());
  for (int64_t begin = 0; begin < n; begin += kPiece) {
    const int64_t size = std::min(kPiece, n - begin);
    y.narrow(0, begin, size).t().copy_(map.mm(x.narrow(0, begin, size).t()));
  }
}

}  // namespace curvature::detail
