#include "core/inner_product.hpp"

#include <array>
#include <cmath>
#include <functional>

#include <ATen/Parallel.h>
#include <ATen/ops/dot.h>

namespace curvature::detail {
namespace {

/// The dot product of float32 vectors in double: BLAS sums in float32, which costs a million
/// parameters three digits, and LibTorch would convert the vectors first.
double inner_float(const float* x, const float* y, int64_t n) {
  constexpr int64_t kGrain = 1 << 16;
  const auto sum_range = [=](int64_t begin, int64_t end, double sum) {
    std::array<double, 8> sums{};  // independent, so that the loop is vectorised
    int64_t i = begin;
    for (; i + 8 <= end; i += 8) {
      for (size_t j = 0; j < 8; ++j) {
        const auto k = static_cast<size_t>(i) + j;
        sums[j] += static_cast<double>(x[k]) * static_cast<double>(y[k]);
      }
    }
    for (; i < end; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(y[i]);
    for (const double partial : sums) sum += partial;
    return sum;
  };
  return at::parallel_reduce(0, n, kGrain, 0.0, sum_range, std::plus<double>());
}

}  // namespace

double inner(const at::Tensor& x, const at::Tensor& y) {
  if (x.scalar_type() == at::kFloat && x.is_cpu()) {
    return inner_float(x.const_data_ptr<float>(), y.const_data_ptr<float>(), x.numel());
  }
  return at::dot(x, y).item<double>();
}

double norm(const at::Tensor& x) { return std::sqrt(inner(x, x)); }

}  // namespace curvature::detail
