#include "layerwise/gram.hpp"

#include <algorithm>

#include <ATen/TensorOperators.h>

#include "core/matrix_product.hpp"

namespace curvature::detail {

int64_t columns_at_once(int64_t n) {
  constexpr int64_t kSmallest = 128, kPieces = 6;
  return std::max(kSmallest, (n + kPieces - 1) / kPieces);
}

void add_gram(at::Tensor& sum, const at::Tensor& rows, double beta) {
  const int64_t n = rows.size(-1), step = columns_at_once(n);
  at::Tensor columns = rows.movedim(-1, 0).flatten(1);
  // oneDNN would copy each piece.
  if (is_for_one_dnn(columns, columns.t())) columns = columns.contiguous();
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t count = std::min(step, n - begin), below = n - begin;
    at::Tensor part = sum.narrow(0, begin, below).narrow(1, begin, count);
    add_matrix_product(part, columns.narrow(0, begin, below), columns.narrow(0, begin, count).t(),
                       beta);
  }
}

void mirror_lower(at::Tensor& lower, double scale) {
  const int64_t n = lower.size(0);
  const int64_t tile = n <= 512 ? n : 256;  // both sides of a transposition stay in the cache
  for (int64_t row = 0; row < n; row += tile) {
    const int64_t rows = std::min(tile, n - row);
    at::Tensor strip = lower.narrow(0, row, rows).narrow(1, 0, row + rows);
    if (scale != 1) strip.mul_(scale);
    for (int64_t column = 0; column < row; column += tile) {
      lower.narrow(0, column, tile).narrow(1, row, rows).copy_(strip.narrow(1, column, tile).t());
    }
    at::Tensor corner = strip.narrow(1, row, rows);
    const at::Tensor above = corner.t().clone(at::MemoryFormat::Contiguous).triu_(1);
    corner.tril_().add_(above);
  }
}

}  // namespace curvature::detail
