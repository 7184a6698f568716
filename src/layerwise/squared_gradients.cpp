#include "layerwise/squared_gradients.hpp"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/_unique2.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/zeros.h>

#include "core/matrix_product.hpp"

namespace curvature::detail {
namespace {

/// Numbers of examples' gradients, or of rotated positions, that are held at once.
constexpr int64_t kChunk = int64_t{1} << 22;
/// Gradients with fewer numbers are made several at a time: measured. On a GPU all are, where each
/// product is a launch.
constexpr int64_t kSmall = int64_t{1} << 14;

/// x `[N, S, d]` times a basis `[d, d]`.
at::Tensor rotated(const at::Tensor& x, const at::Tensor& basis) {
  if (!basis.defined()) return x;
  return padded_product(x.flatten(0, 1), basis).view({x.size(0), x.size(1), basis.size(1)});
}

/// Adds the squares of sum_s g_ns a_ns^T, for few rows at a time of all examples, so that what is
/// multiplied, squared and added to does not leave a core's caches.
void add_squares_of_sums(const at::Tensor& g, const at::Tensor& a, at::Tensor& sum) {
  constexpr int64_t kCached = int64_t{1} << 18, kFewest = 16;
  const int64_t m = sum.size(0), n = sum.size(1);
  const int64_t most = std::max(kCached / n, kFewest);
  for (int64_t begin = 0; begin < m; begin += most) {
    const int64_t rows = std::min(most, m - begin);
    const at::Tensor of_sum = sum.narrow(0, begin, rows);
    for (int64_t i = 0; i < g.size(0); ++i) {
      const at::Tensor gradient = padded_product(g[i].narrow(1, begin, rows).t(), a[i]);
      of_sum.addcmul_(gradient, gradient);
    }
  }
}

}  // namespace

void add_squared_gradients(const at::Tensor& g, const at::Tensor& a, const at::Tensor& basis_b,
                           const at::Tensor& basis_a, at::Tensor& sum) {
  const int64_t examples = g.size(0), positions = g.size(1), m = g.size(2), n = a.size(2);
  if (positions == 1) {
    const at::Tensor rotated_g = rotated(g, basis_b).squeeze(1);
    const at::Tensor rotated_a = rotated(a, basis_a).squeeze(1);
    add_matrix_product(sum, rotated_g.square().t(), rotated_a.square());
    return;
  }
  // Rotating positions costs S n^2 an example, rotating its gradient m n^2; and so for outputs.
  const bool rotate_a_first = positions < m || !basis_a.defined();
  const bool rotate_g_first = positions < n || !basis_b.defined();
  const bool by_strips = sum.is_cpu() && rotate_a_first && rotate_g_first && m * n >= kSmall;
  const int64_t held = std::max(by_strips ? 0 : m * n, positions * std::max(m, n));
  const int64_t most = std::max<int64_t>(1, kChunk / std::max<int64_t>(1, held));
  const int64_t chunks = (examples + most - 1) / most;
  for (int64_t chunk = 0; chunk < chunks; ++chunk) {
    const int64_t begin = examples * chunk / chunks;
    const int64_t count = examples * (chunk + 1) / chunks - begin;
    at::Tensor some_g = g.narrow(0, begin, count), some_a = a.narrow(0, begin, count);
    if (rotate_g_first) some_g = rotated(some_g, basis_b);
    if (rotate_a_first) some_a = rotated(some_a, basis_a);
    if (by_strips) {
      add_squares_of_sums(some_g, some_a, sum);
    } else {
      at::Tensor gradients = at::bmm(some_g.transpose(1, 2), some_a);
      if (!rotate_a_first) gradients = rotated(gradients, basis_a);
      if (!rotate_g_first) gradients = at::bmm(basis_b.t().expand({count, m, m}), gradients);
      sum.add_(gradients.square_().sum(0));
    }
  }
}

void add_squared_gradients_of_one_hot(const at::Tensor& g, const at::Tensor& indices,
                                      at::Tensor& sum) {
  const int64_t columns = sum.size(1);
  const at::Tensor example =
      at::arange(g.size(0), indices.options()).unsqueeze(1).expand_as(indices);
  const at::Tensor kept = indices.flatten().ge(0).nonzero().squeeze(1);
  const at::Tensor key = (example * columns + indices).flatten().index_select(0, kept);
  const auto [keys, which, counts] = at::_unique2(key, /*sorted=*/true, /*return_inverse=*/true);
  at::Tensor sums = at::zeros({keys.size(0), g.size(2)}, g.options());
  sums.index_add_(0, which, g.flatten(0, 1).index_select(0, kept));
  sum.t().index_add_(0, keys.remainder(columns), sums.square_());
}

}  // namespace curvature::detail
