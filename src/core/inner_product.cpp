#include "core/inner_product.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>

#include <ATen/Parallel.h>
#include <ATen/ops/dot.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>

namespace curvature::detail {
namespace {

#if defined(__x86_64__)
#define CURVATURE_WIDE_VECTORS __attribute__((target("avx2,fma")))
bool has_wide_vectors() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#else
#define CURVATURE_WIDE_VECTORS
bool has_wide_vectors() { return false; }
#endif

constexpr int64_t kPiece = 8192;

/// sum_i x_i y_i, within a piece in `Sum`, over the pieces in double. `ahead` of x, and of y unless
/// zero, lies what is read later: processors prefetch to the end of a page only, and wait at the
/// next for a quarter of the time.
template <typename Sum>
[[gnu::always_inline]] inline double sum_of_products(const float* x, const float* y, int64_t n,
                                                     int64_t ahead_of_x, int64_t ahead_of_y) {
  constexpr int64_t kLanes = 256 / sizeof(Sum);  // independent: eight vectors' worth
  constexpr int64_t kCacheLine = 64 / sizeof(float);
  double total = 0;
  int64_t i = 0;
  while (i + kLanes <= n) {
    std::array<Sum, kLanes> sums{};
    for (const int64_t end = std::min(n, i + kPiece); i + kLanes <= end; i += kLanes) {
      for (int64_t j = 0; j < kLanes; j += kCacheLine) {
        __builtin_prefetch(x + i + j + ahead_of_x);
        if (ahead_of_y != 0) __builtin_prefetch(y + i + j + ahead_of_y);
      }
      for (int64_t j = 0; j < kLanes; ++j) {
        sums[j] += static_cast<Sum>(x[i + j]) * static_cast<Sum>(y[i + j]);
      }
    }
    for (const Sum partial : sums) total += static_cast<double>(partial);
  }
  for (; i < n; ++i) total += static_cast<double>(static_cast<Sum>(x[i]) * static_cast<Sum>(y[i]));
  return total;
}

template <typename Sum>
CURVATURE_WIDE_VECTORS double sum_of_products_wide(const float* x, const float* y, int64_t n,
                                                   int64_t ahead_of_x, int64_t ahead_of_y) {
  return sum_of_products<Sum>(x, y, n, ahead_of_x, ahead_of_y);
}

/// The kernel for this processor.
template <typename Sum>
auto sum_of_products_here() {
  static const bool is_wide = has_wide_vectors();
  return is_wide ? sum_of_products_wide<Sum> : sum_of_products<Sum>;
}

template <typename Sum>
double inner_float(const float* x, const float* y, int64_t n) {
  constexpr int64_t kGrain = 1 << 16;
  const auto function = sum_of_products_here<Sum>();
  const auto sum_range = [=](int64_t begin, int64_t end, double sum) {
    return sum + function(x + begin, y + begin, end - begin, kPiece, x == y ? 0 : kPiece);
  };
  return at::parallel_reduce(0, n, kGrain, 0.0, sum_range, std::plus<double>());
}

}  // namespace

double inner(const at::Tensor& x, const at::Tensor& y) {
  if (x.scalar_type() == at::kFloat && x.is_cpu()) {
    // BLAS sums in float32, which costs a million parameters three digits, and LibTorch would
    // convert the vectors first.
    return inner_float<double>(x.const_data_ptr<float>(), y.const_data_ptr<float>(), x.numel());
  }
  return at::dot(x, y).item<double>();
}

at::Tensor inner_rows(const at::Tensor& rows, const at::Tensor& y) {
  const int64_t count = rows.size(0), n = rows.size(1);
  const int64_t num_pieces = at::divup(n, kPiece);
  const at::Tensor sums = at::empty({num_pieces, count}, at::kDouble);
  const auto function = sum_of_products_here<float>();
  const auto* of_rows = rows.const_data_ptr<float>();
  const auto* of_y = y.const_data_ptr<float>();
  auto* of_sums = sums.mutable_data_ptr<double>();
  // Piece by piece, so that y stays in the first cache.
  at::parallel_for(0, num_pieces, /*grain_size=*/8, [=](int64_t first, int64_t last) {
    for (int64_t p = first; p < last; ++p) {
      const int64_t begin = p * kPiece, size = std::min(kPiece, n - begin);
      for (int64_t k = 0; k < count; ++k) {
        const int64_t next = k + 1 < count ? n : kPiece - (count - 1) * n;
        of_sums[p * count + k] = function(of_rows + k * n + begin, of_y + begin, size, next, 0);
      }
    }
  });
  return sums.sum(0);
}

double norm(const at::Tensor& x) { return std::sqrt(inner(x, x)); }

double quick_norm(const at::Tensor& x) {
  if (x.scalar_type() == at::kFloat && x.is_cpu() && x.is_contiguous()) {
    const auto* data = x.const_data_ptr<float>();
    return std::sqrt(inner_float<float>(data, data, x.numel()));
  }
  return at::linalg_vector_norm(x).item<double>();
}

}  // namespace curvature::detail
