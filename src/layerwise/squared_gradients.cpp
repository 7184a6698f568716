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

/// Numbers of examples' gradients that are held at once.
constexpr int64_t kChunk = int64_t{1} << 22;

/// x `[N, S, d]` times a basis `[d, d]`.
at::Tensor rotated(const at::Tensor& x, const at::Tensor& basis) {
  if (!basis.defined()) return x;
  return matrix_product(x.flatten(0, 1), basis).view({x.size(0), x.size(1), basis.size(1)});
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
  const bool rotate_a_first = positions < m, rotate_g_first = positions < n;
  const int64_t chunk = std::max<int64_t>(1, kChunk / (m * n));
  for (int64_t begin = 0; begin < examples; begin += chunk) {
    const int64_t count = std::min(chunk, examples - begin);
    at::Tensor some_g = g.narrow(0, begin, count), some_a = a.narrow(0, begin, count);
    if (rotate_g_first) some_g = rotated(some_g, basis_b);
    if (rotate_a_first) some_a = rotated(some_a, basis_a);
    at::Tensor gradients = at::bmm(some_g.transpose(1, 2), some_a);
    if (!rotate_a_first) gradients = rotated(gradients, basis_a);
    if (!rotate_g_first && basis_b.defined()) gradients = basis_b.t().matmul(gradients);
    sum.add_(gradients.square_().sum(0));
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
