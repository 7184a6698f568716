#include <algorithm>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/geqrf.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "core/matrix_product.hpp"
#include "layerwise/gram.hpp"
#include "optim/orthogonal_factor.hpp"

namespace curvature::optim {
namespace {

/// Columns that LAPACK reduces at once: measured. Wider ones leave it more to do, narrower ones
/// starve the products.
constexpr int64_t kColumns = 96;
/// From this size on two of them are joined, so that what comes after is passed through half as
/// often.
constexpr int64_t kLarge = 1100;

// Everything below is on the transpose: row by row in memory, as LAPACK wants its columns, and a
// left factor of a product may have gaps, which a right one may not.

/// The product of reflections, I - V T V^T (Schreiber and Van Loan 1989, A storage-efficient WY
/// representation).
struct Reflections {
  at::Tensor rows;  ///< V^T `[columns, length]`, unit upper trapezoidal
  at::Tensor t;     ///< `[columns, columns]`, upper triangular
};

/// T from LAPACK's V and tau: T^-1 = diag(1 / tau) + the strict upper triangle of V^T V.
at::Tensor compact_form(const at::Tensor& rows, const at::Tensor& tau) {
  const at::Tensor products = detail::matrix_product(rows, rows.t()).triu(1);
  const at::Tensor left = products * tau.unsqueeze(1);
  return at::linalg_solve_triangular(left, tau.diag(), /*upper=*/true, /*left=*/true,
                                     /*unitriangular=*/true);
}

/// X <- X (I - V T V^T).
void reflect(at::Tensor x, const Reflections& by) {
  const at::Tensor w = detail::matrix_product(detail::matrix_product(x, by.rows.t()), by.t);
  x.sub_(detail::matrix_product(w, by.rows));
}

/// The product of both, `second` being for what comes after the columns of `first`.
Reflections joined(const Reflections& first, const Reflections& second) {
  const int64_t a = first.t.size(0), b = second.t.size(0), length = first.rows.size(1);
  at::Tensor rows = at::zeros({a + b, length}, first.rows.options());
  rows.narrow(0, 0, a).copy_(first.rows);
  rows.narrow(0, a, b).narrow(1, a, length - a).copy_(second.rows);
  at::Tensor t = at::zeros({a + b, a + b}, first.t.options());
  t.narrow(0, 0, a).narrow(1, 0, a).copy_(first.t);
  t.narrow(0, a, b).narrow(1, a, b).copy_(second.t);
  const at::Tensor products =
      detail::matrix_product(first.rows.narrow(1, a, length - a), second.rows.t());
  t.narrow(0, 0, a).narrow(1, a, b).copy_(first.t.mm(products).mm(second.t).neg_());
  return {rows, t};
}

/// Makes the transpose of a panel, `[columns, length]`, lower triangular, in place but for the
/// zeros, and gives the reflections that did it.
Reflections eliminate(at::Tensor panel) {
  const int64_t columns = panel.size(0), length = panel.size(1);
  if (columns > kColumns) {
    const Reflections first = eliminate(panel.narrow(0, 0, kColumns));
    at::Tensor later = panel.narrow(0, kColumns, columns - kColumns);
    reflect(later, first);
    return joined(first, eliminate(later.narrow(1, kColumns, length - kColumns)));
  }
  const auto [reduced, tau] = at::geqrf(panel.t());
  at::Tensor rows = reduced.t().triu(1).contiguous();
  rows.diagonal().fill_(1);
  panel.narrow(1, 0, columns).copy_(reduced.t().narrow(1, 0, columns));
  return {rows, compact_form(rows, tau)};
}

/// Multiplies Q, which is the identity outside of what later blocks made, by a block's reflections,
/// given Q^T: Q^T (I - V T^T V^T).
void apply(const Reflections& block, int64_t begin, at::Tensor& q) {
  const auto& [rows, t] = block;
  const int64_t n = q.size(0), columns = t.size(0), next = begin + columns, rest = n - next;
  at::Tensor own = q.narrow(0, begin, columns).narrow(1, begin, n - begin);
  const at::Tensor top = rows.narrow(1, 0, columns);
  own.sub_(detail::matrix_product(detail::matrix_product(top.t(), t.t()), rows));
  own.diagonal().add_(1);
  if (rest == 0) return;
  const at::Tensor later = q.narrow(0, next, rest).narrow(1, next, rest);
  const at::Tensor w = detail::matrix_product(
      detail::matrix_product(later, rows.narrow(1, columns, rest).t()), t.t());
  q.narrow(0, next, rest).narrow(1, begin, n - begin).sub_(detail::matrix_product(w, rows));
}

QrFactors qr_by_blocks(const at::Tensor& matrix) {
  at::Tensor triangle = matrix.t().clone(at::MemoryFormat::Contiguous);
  const int64_t n = matrix.size(0), width = n >= kLarge ? 2 * kColumns : kColumns;
  std::vector<Reflections> blocks;
  for (int64_t begin = 0; begin < n; begin += width) {
    const int64_t columns = std::min(width, n - begin), next = begin + columns;
    const at::Tensor right = triangle.narrow(1, begin, n - begin);
    blocks.push_back(eliminate(right.narrow(0, begin, columns)));
    if (next < n) reflect(right.narrow(0, next, n - next), blocks.back());
  }
  at::Tensor q = at::zeros_like(triangle);
  for (int64_t i = static_cast<int64_t>(blocks.size()); i-- > 0;) {
    apply(blocks[static_cast<size_t>(i)], i * width, q);
  }
  return {.orthogonal = q.t(), .triangle = triangle.tril_().t()};
}

}  // namespace

QrFactors qr(const at::Tensor& matrix) {
  constexpr int64_t kSmallest = 5 * kColumns;  // measured: below, LAPACK is as fast
  if (matrix.size(0) >= kSmallest && detail::is_for_one_dnn(matrix, matrix)) {
    return qr_by_blocks(matrix);
  }
  // LibTorch has no QR below float32.
  const at::ScalarType dtype = matrix.scalar_type();
  auto [orthogonal, triangle] = at::linalg_qr(matrix.to(c10::promoteTypes(dtype, at::kFloat)));
  return {.orthogonal = orthogonal.to(dtype), .triangle = triangle.to(dtype)};
}

at::Tensor symmetric_product(const QrFactors& factors) {
  // Q^T R^T, strip by strip of columns: R^T is lower triangular.
  const at::Tensor left = factors.orthogonal.t(), right = factors.triangle.t();
  const int64_t n = left.size(0), step = detail::columns_at_once(n);
  at::Tensor product = at::zeros({n, n}, left.options());
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t columns = std::min(step, n - begin), below = n - begin;
    const at::Tensor strip = right.narrow(0, begin, below).narrow(1, begin, columns);
    product.narrow(0, begin, below)
        .narrow(1, begin, columns)
        .copy_(detail::matrix_product(left.narrow(0, begin, below).narrow(1, begin, below), strip));
  }
  return product;
}

}  // namespace curvature::optim
