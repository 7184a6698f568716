#include "core/matrix_product.hpp"

#include <algorithm>
#include <optional>
#include <string_view>

#include <ATen/Context.h>
#include <ATen/core/List.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include "core/fast_kernels.hpp"

namespace curvature::detail {
namespace {

using LinearPointwise = at::Tensor(const at::Tensor& x, const at::Tensor& w,
                                   const std::optional<at::Tensor>& bias, std::string_view function,
                                   c10::List<std::optional<at::Scalar>> scalars,
                                   std::optional<std::string_view> algorithm);

/// x w^T by oneDNN; nothing in a LibTorch without it.
const std::optional<c10::TypedOperatorHandle<LinearPointwise>>& one_dnn_linear() {
  static const auto handle = []() -> std::optional<c10::TypedOperatorHandle<LinearPointwise>> {
    const auto found = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!found || !found->hasKernelForDispatchKey(c10::DispatchKey::CPU)) return std::nullopt;
    return found->typed<LinearPointwise>();
  }();
  return handle;
}

constexpr int64_t kVector = 8;  ///< numbers in one of AVX2

/// Where oneDNN is faster than LibTorch's BLAS, measured on AMD's processors. With AVX-512, which
/// MKL does not use there: everywhere, up to twice. With AVX2 alone MKL is as fast, and by a third
/// faster where a factor is transposed, unless rows of the result begin within a vector.
bool is_faster_by_one_dnn(const at::Tensor& a, const at::Tensor& b) {
  constexpr int64_t kSmallest = 384;
  const bool is_ragged =
      b.size(1) % kVector != 0 && std::min({a.size(0), a.size(1), b.size(1)}) >= kSmallest;
  return has_avx512() || is_ragged || OneDnnEverywhere::on();
}

/// Whether rows of a large sum begin within a vector and those of a product of its size would not:
/// MKL without AVX-512 takes a quarter longer to add to the sum than to make the product, measured.
bool is_slow_to_add_to(const at::Tensor& sum) {
  constexpr int64_t kSmallest = 384;
  return sum.dim() == 2 && sum.is_cpu() && sum.scalar_type() == at::kFloat && !has_avx512() &&
         sum.stride(0) >= kSmallest && sum.stride(0) % kVector != 0 && sum.size(1) % kVector == 0;
}

/// Measured: below this the set-up of a product costs what it saves.
constexpr int64_t kSmallestSide = 96;

/// Row by row or column by column, possibly with gaps: not expanded, no windows that overlap.
bool is_strided_matrix(const at::Tensor& x) {
  return (x.stride(1) == 1 && x.stride(0) >= x.size(1)) ||
         (x.stride(0) == 1 && x.stride(1) >= x.size(0));
}

}  // namespace

bool has_avx512() {
#if defined(__x86_64__)
  static const bool is_there = __builtin_cpu_supports("avx512f");
  return is_there;
#else
  return false;
#endif
}

bool is_for_one_dnn(const at::Tensor& a, const at::Tensor& b) {
  return a.scalar_type() == at::kFloat && b.scalar_type() == at::kFloat && a.is_cpu() &&
         b.is_cpu() && a.dim() == 2 && b.dim() == 2 && a.size(1) == b.size(0) &&
         std::min({a.size(0), a.size(1), b.size(1)}) >= kSmallestSide &&
         is_faster_by_one_dnn(a, b) && at::globalContext().userEnabledMkldnn() &&
         one_dnn_linear().has_value();
}

at::Tensor by_one_dnn(const at::Tensor& a, const at::Tensor& b) {
  // A right factor with gaps in memory would meet a reference kernel, a thousand times slower.
  if (!b.is_non_overlapping_and_dense()) {
    const bool by_columns = b.stride(0) == 1;  // copies without a transposition
    return by_one_dnn(a, by_columns ? b.t().contiguous().t() : b.contiguous());
  }
  if (!is_strided_matrix(a)) return by_one_dnn(a.contiguous(), b);
  return one_dnn_linear()->call(a, b.t(), std::nullopt, "none",
                                c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b) {
  const at::NoGradGuard no_grad;
  return is_for_one_dnn(a, b) ? by_one_dnn(a, b) : a.mm(b);
}

at::Tensor padded_product(const at::Tensor& a, const at::Tensor& b) {
  const at::NoGradGuard no_grad;
  if (is_for_one_dnn(a, b)) return by_one_dnn(a, b);
  const int64_t n = b.size(1), apart = (n + kVector - 1) / kVector * kVector;
  at::Tensor product = at::empty({a.size(0), apart}, a.options()).narrow(1, 0, n);
  return at::mm_out(product, a, b);
}

void add_matrix_product(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, double beta) {
  const at::NoGradGuard no_grad;
  if (is_for_one_dnn(a, b) || is_slow_to_add_to(sum)) {
    const at::Tensor product = matrix_product(a, b);
    if (beta == 0) {
      sum.copy_(product);
    } else {
      at::add_out(sum, product, sum, beta);
    }
  } else {
    sum.addmm_(a, b, beta);
  }
}

at::Tensor symmetric_by_strips(
    int64_t n, int64_t width, const at::TensorOptions& options,
    const std::function<at::Tensor(int64_t begin, int64_t count)>& strip) {
  at::Tensor lower = at::zeros({n, n}, options);
  for (int64_t begin = 0; begin < n; begin += width) {
    const int64_t count = std::min(width, n - begin);
    lower.narrow(0, begin, n - begin).narrow(1, begin, count).copy_(strip(begin, count));
  }
  return lower;
}

}  // namespace curvature::detail
