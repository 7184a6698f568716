#include "layerwise/gram.hpp"

#include <algorithm>

#include <ATen/TensorOperators.h>

#include "core/matrix_product.hpp"

namespace curvature::detail {
namespace {

/// Columns of the triangle that are multiplied at once: fewer save more arithmetic, more keep the
/// products large enough to run at full speed.
int64_t columns_at_once(int64_t n) {
  constexpr int64_t kSmallest = 128, kPieces = 6;
  return std::max(kSmallest, (n + kPieces - 1) / kPieces);
}

/// sum += X^T X on and below the diagonal, for rows X `[R, n]`, a few columns at a time.
void add_lower(at::Tensor& sum, const at::Tensor& rows) {
  const int64_t n = rows.size(1), step = columns_at_once(n);
  const at::Tensor transposed = rows.t();
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t count = std::min(step, n - begin), below = n - begin;
    at::Tensor part = sum.narrow(0, begin, below).narrow(1, begin, count);
    add_matrix_product(part, transposed.narrow(0, begin, below), rows.narrow(1, begin, count));
  }
}

}  // namespace

void add_gram(at::Tensor& sum, const at::Tensor& rows) { add_lower(sum, rows); }

void add_gram_of_examples(at::Tensor& sum, const at::Tensor& rows) {
  // Gradients of images come channel by channel, where all rows as one matrix are a copy. Measured:
  // with fewer positions many small products cost more than the copy.
  constexpr int64_t kManyPositions = 128;
  const bool is_copied = rows.stride(1) == 1 && rows.stride(2) != 1 && rows.size(0) > 1 &&
                         rows.stride(0) != rows.size(1);
  if (!is_copied || rows.size(1) < kManyPositions) return add_lower(sum, rows.flatten(0, 1));
  for (const at::Tensor& example : rows.unbind(0)) add_lower(sum, example);
}

void mirror_lower(at::Tensor& lower, double scale) {
  constexpr int64_t kTile = 256;  // both sides of a transposition stay in the cache
  const int64_t n = lower.size(0);
  for (int64_t row = 0; row < n; row += kTile) {
    const int64_t rows = std::min(kTile, n - row);
    at::Tensor strip = lower.narrow(0, row, rows).narrow(1, 0, row + rows);
    if (scale != 1) strip.mul_(scale);
    for (int64_t column = 0; column < row; column += kTile) {
      lower.narrow(0, column, kTile).narrow(1, row, rows).copy_(strip.narrow(1, column, kTile).t());
    }
    at::Tensor corner = strip.narrow(1, row, rows);
    corner.copy_(corner.tril() + corner.tril(-1).t());
  }
}

}  // namespace curvature::detail
