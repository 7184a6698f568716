#include "layerwise/gram.hpp"

#include <algorithm>

#include <ATen/TensorOperators.h>

#include "core/matrix_product.hpp"

namespace curvature::detail {
namespace {

/// Columns of a triangle of `n` rows that are multiplied at once: fewer save more arithmetic, more
/// keep the products large enough to run at full speed.
int64_t columns_at_once(int64_t n) {
  // Whole vectors: MKL takes a third longer where rows of a piece end within one, measured on
  // Zen 3.
  constexpr int64_t kSmallest = 128, kPieces = 6, kVector = 16;
  const int64_t vectors = (n + kPieces * kVector - 1) / (kPieces * kVector);
  return std::max(kSmallest, vectors * kVector);
}

}  // namespace

void add_gram(at::Tensor& sum, const at::Tensor& rows, double beta) {
  const int64_t n = rows.size(-1), step = columns_at_once(n);
  at::Tensor columns = rows.movedim(-1, 0).flatten(1);
  // oneDNN would copy each piece.
  if (is_for_one_dnn(columns, columns.narrow(0, 0, std::min(step, n)).t())) {
    columns = columns.contiguous();
  }
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t count = std::min(step, n - begin), below = n - begin;
    at::Tensor part = sum.narrow(0, begin, below).narrow(1, begin, count);
    add_matrix_product(part, columns.narrow(0, begin, below), columns.narrow(0, begin, count).t(),
                       beta);
  }
}

void mirror_lower(at::Tensor& lower, double scale) {
  constexpr int64_t kTile = 256;  // both sides of a transposition stay in the cache
  const int64_t n = lower.size(0);
  // LibTorch's transposition is fast between tensors without gaps.
  const auto transposed = [](const at::Tensor& x) {
    return x.contiguous().t().clone(at::MemoryFormat::Contiguous);
  };
  for (int64_t row = 0; row < n; row += kTile) {
    const int64_t rows = std::min(kTile, n - row);
    at::Tensor strip = lower.narrow(0, row, rows).narrow(1, 0, row + rows);
    if (scale != 1) strip.mul_(scale);
    for (int64_t column = 0; column < row; column += kTile) {
      const at::Tensor tile = strip.narrow(1, column, kTile);
      lower.narrow(0, column, kTile).narrow(1, row, rows).copy_(transposed(tile));
    }
    const at::Tensor corner = strip.narrow(1, row, rows);
    const at::Tensor above = transposed(corner).triu_(1);
    corner.tril_().add_(above);
  }
}

}  // namespace curvature::detail
