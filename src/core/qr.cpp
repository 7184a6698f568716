#include "core/qr.hpp"

#include <algorithm>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/geqrf.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/zeros.h>

#include "core/matrix_product.hpp"

namespace curvature::detail {
namespace {

/// Columns that LAPACK reduces at once: measured. Wider ones leave it more to do, narrower ones
/// starve the products.
constexpr int64_t kColumns = 96;
/// From this size on two of them are joined, so that what comes after is passed through half as
/// often.
constexpr int64_t kLarge = 1100;

// Everything below is on the transpose: row by row in memory, as LAPACK wants its columns, and a
// left factor of a product may have gaps, which a right one may not.

using Reflections = GrowingBasis::Reflections;

/// From LAPACK's V and tau: T^-1 = diag(1 / tau) + the strict upper triangle of V^T V.
Reflections compact_form(const at::Tensor& rows, const at::Tensor& tau) {
  const at::Tensor products = matrix_product(rows, rows.t()).mul_(tau.unsqueeze(1));
  const at::Tensor minus_t = at::linalg_solve_triangular(products, tau.neg().diag(), /*upper=*/true,
                                                         /*left=*/true, /*unitriangular=*/true);
  return {rows, matrix_product(minus_t, rows)};
}

/// X <- X (I - V T V^T).
void reflect(at::Tensor x, const Reflections& by) {
  add_matrix_product(x, matrix_product(x, by.rows.t()), by.scaled);
}

/// The product of both, `second` being for what comes after the columns of `first`:
/// -T V^T of the first is reflected by the second.
Reflections joined(const Reflections& first, const Reflections& second) {
  const int64_t a = first.rows.size(0), b = second.rows.size(0), length = first.rows.size(1);
  const auto stacked = [&](const at::Tensor& upper, const at::Tensor& lower) {
    at::Tensor both = at::zeros({a + b, length}, upper.options());
    both.narrow(0, 0, a).copy_(upper);
    both.narrow(0, a, b).narrow(1, a, length - a).copy_(lower);
    return both;
  };
  const at::Tensor scaled = stacked(first.scaled, second.scaled);
  reflect(scaled.narrow(0, 0, a).narrow(1, a, length - a), second);
  return {stacked(first.rows, second.rows), scaled};
}

/// Makes the transpose of a panel, `[columns, length]`, lower triangular, in place but for what is
/// above the diagonal, and gives the reflections that did it.
Reflections eliminate(at::Tensor panel) {
  const int64_t columns = panel.size(0), length = panel.size(1);
  if (columns > kColumns) {
    const Reflections first = eliminate(panel.narrow(0, 0, kColumns));
    const at::Tensor later = panel.narrow(0, kColumns, columns - kColumns);
    reflect(later, first);
    return joined(first, eliminate(later.narrow(1, kColumns, length - kColumns)));
  }
  const auto [reduced, tau] = at::geqrf(panel.t());
  at::Tensor rows = reduced.t().triu(1);
  rows.diagonal().fill_(1);
  panel.narrow(1, 0, columns).copy_(reduced.t().narrow(1, 0, columns));
  return compact_form(rows, tau);
}

/// Multiplies Q, which is the identity outside of what later blocks made, by a block's reflections,
/// given Q^T: Q^T (I - V T^T V^T).
void apply(const Reflections& block, int64_t begin, at::Tensor& q) {
  const int64_t n = q.size(0), columns = block.rows.size(0), next = begin + columns;
  const int64_t length = n - begin, rest = n - next;
  at::Tensor w = at::empty({length, columns}, q.options());
  w.narrow(0, 0, columns).copy_(block.scaled.narrow(1, 0, columns).t());
  if (rest > 0) {
    const at::Tensor later = q.narrow(0, next, rest).narrow(1, next, rest);
    w.narrow(0, columns, rest)
        .copy_(matrix_product(later, block.scaled.narrow(1, columns, rest).t()));
  }
  at::Tensor changed = q.narrow(0, begin, length).narrow(1, begin, length);
  changed.diagonal().narrow(0, 0, columns).fill_(1);
  add_matrix_product(changed, w, block.rows);
}

/// Measured: up to these sizes LAPACK is as fast, the second where the products are LibTorch's own.
bool is_faster_by_blocks(const at::Tensor& matrix) {
  constexpr int64_t kByOneDnn = 2 * kColumns, kElsewhere = 448;
  const bool is_for_blocks = matrix.is_cpu() && matrix.scalar_type() == at::kFloat;
  return is_for_blocks &&
         matrix.size(1) > (is_for_one_dnn(matrix.t(), matrix) ? kByOneDnn : kElsewhere);
}

QrFactors by_lapack(const at::Tensor& matrix) {
  // LibTorch has no QR below float32.
  const at::ScalarType dtype = matrix.scalar_type();
  auto [orthogonal, triangle] =
      at::linalg_qr(matrix.to(c10::promoteTypes(dtype, at::kFloat)), "complete");
  return {.orthogonal = orthogonal.to(dtype), .triangle = triangle.to(dtype)};
}

}  // namespace

int64_t GrowingBasis::block_width() const { return n_ >= kLarge ? 2 * kColumns : kColumns; }

at::Tensor GrowingBasis::beyond(at::Tensor rows) const {
  int64_t begin = 0;
  for (const Reflections& block : blocks_) {
    reflect(rows.narrow(1, begin, n_ - begin), block);
    begin += block.rows.size(0);
  }
  return rows.narrow(1, size_, n_ - size_);
}

const Reflections& GrowingBasis::add(at::Tensor beyond) {
  blocks_.push_back(eliminate(beyond));
  size_ += beyond.size(0);
  return blocks_.back();
}

at::Tensor GrowingBasis::complete() const {
  // Where vectors are few, all reflections are joined: one product instead of two for each block.
  if (!blocks_.empty() && 2 * size_ <= n_) {
    Reflections all = blocks_.front();
    for (size_t i = 1; i < blocks_.size(); ++i) all = joined(all, blocks_[i]);
    const at::Tensor q = matrix_product(all.scaled.t(), all.rows);
    q.diagonal().add_(1);
    return q.t();
  }
  at::Tensor q = at::zeros({n_, n_}, options_);
  q.diagonal().narrow(0, size_, n_ - size_).fill_(1);
  int64_t begin = size_;
  for (size_t i = blocks_.size(); i-- > 0;) {
    begin -= blocks_[i].rows.size(0);
    apply(blocks_[i], begin, q);
  }
  return q.t();
}

QrFactors qr(const at::Tensor& matrix) {
  if (!is_faster_by_blocks(matrix)) return by_lapack(matrix);
  const at::Tensor triangle = matrix.t().clone(at::MemoryFormat::Contiguous);
  GrowingBasis basis(matrix.size(0), matrix.options());
  at::Tensor later = triangle;
  while (later.size(0) > 0) {
    const int64_t columns = std::min(basis.block_width(), later.size(0));
    const int64_t rest = later.size(0) - columns;
    const Reflections& block = basis.add(later.narrow(0, 0, columns));
    later = later.narrow(0, columns, rest);
    if (rest > 0) reflect(later, block);
    later = later.narrow(1, columns, later.size(1) - columns);
  }
  return {.orthogonal = basis.complete(), .triangle = triangle.tril().t()};
}

at::Tensor symmetric_product(const QrFactors& factors) {
  // Q^T R^T; R^T is lower triangular.
  const at::Tensor left = factors.orthogonal.t(), right = factors.triangle.t();
  const int64_t n = left.size(0);
  return symmetric_by_strips(n, kColumns, left.options(), [&](int64_t begin, int64_t count) {
    const int64_t below = n - begin;
    return matrix_product(left.narrow(0, begin, below).narrow(1, begin, below),
                          right.narrow(0, begin, below).narrow(1, begin, count));
  });
}

}  // namespace curvature::detail
