#include <algorithm>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/geqrf.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "core/matrix_product.hpp"
#include "optim/orthogonal_factor.hpp"

namespace curvature::optim {
namespace {

/// Columns that LAPACK reduces at once: measured. Wider ones leave it more to do, narrower ones
/// starve the products.
constexpr int64_t kColumns = 96;
/// From this size on two of them are joined, so that what comes after is passed through half as
/// often.
constexpr int64_t kLarge = 1100;

/// The product of reflections, I - V T V^T (Schreiber and Van Loan 1989, A storage-efficient WY
/// representation).
struct Reflections {
  at::Tensor v;  ///< `[rows, columns]`, unit lower trapezoidal
  at::Tensor t;  ///< `[columns, columns]`, upper triangular
};

/// T from LAPACK's V and tau: T^-1 = diag(1 / tau) + the strict upper triangle of V^T V.
at::Tensor compact_form(const at::Tensor& v, const at::Tensor& tau) {
  const at::Tensor products = detail::matrix_product(v.t(), v).triu(1);
  const at::Tensor left = products * tau.unsqueeze(1);
  return at::linalg_solve_triangular(left, tau.diag(), /*upper=*/true, /*left=*/true,
                                     /*unitriangular=*/true);
}

/// x <- (I - V T V^T)^T x.
void reflect(const Reflections& by, at::Tensor x) {
  const at::Tensor w = detail::matrix_product(by.t.t(), detail::matrix_product(by.v.t(), x));
  x.sub_(detail::matrix_product(by.v, w));
}

/// The product of both, `second` being for the rows and columns after those of `first`.
Reflections joined(const Reflections& first, const Reflections& second) {
  const int64_t a = first.t.size(0), b = second.t.size(0), rows = first.v.size(0);
  at::Tensor v = at::zeros({rows, a + b}, first.v.options());
  v.narrow(1, 0, a).copy_(first.v);
  v.narrow(0, a, rows - a).narrow(1, a, b).copy_(second.v);
  at::Tensor t = at::zeros({a + b, a + b}, first.t.options());
  t.narrow(0, 0, a).narrow(1, 0, a).copy_(first.t);
  t.narrow(0, a, b).narrow(1, a, b).copy_(second.t);
  const at::Tensor products = detail::matrix_product(first.v.narrow(0, a, rows - a).t(), second.v);
  t.narrow(0, 0, a).narrow(1, a, b).copy_(first.t.mm(products).mm(second.t).neg_());
  return {v, t};
}

/// Makes a panel `[rows, columns]` upper triangular, in place but for the zeros, and gives the
/// reflections that did it.
Reflections eliminate(at::Tensor panel) {
  const int64_t rows = panel.size(0), columns = panel.size(1);
  if (columns > kColumns) {
    const Reflections first = eliminate(panel.narrow(1, 0, kColumns));
    const at::Tensor right = panel.narrow(1, kColumns, columns - kColumns);
    reflect(first, right);
    return joined(first, eliminate(right.narrow(0, kColumns, rows - kColumns)));
  }
  const auto [reduced, tau] = at::geqrf(panel);
  at::Tensor v = reduced.tril(-1).contiguous();
  v.diagonal().fill_(1);
  panel.narrow(0, 0, columns).copy_(reduced.narrow(0, 0, columns));
  return {v, compact_form(v, tau)};
}

/// Multiplies Q, which is the identity outside of what later blocks made, by a block's reflections.
void apply(const Reflections& block, int64_t begin, at::Tensor& q) {
  const auto& [v, t] = block;
  const int64_t n = q.size(0), columns = t.size(0), next = begin + columns, rest = n - next;
  at::Tensor own = q.narrow(0, begin, n - begin).narrow(1, begin, columns);
  const at::Tensor top = v.narrow(0, 0, columns);
  own.sub_(detail::matrix_product(v, detail::matrix_product(t, top.t())));
  own.diagonal().add_(1);
  if (rest == 0) return;
  const at::Tensor later = q.narrow(0, next, rest).narrow(1, next, rest);
  const at::Tensor w =
      detail::matrix_product(t, detail::matrix_product(v.narrow(0, columns, rest).t(), later));
  q.narrow(0, begin, n - begin).narrow(1, next, rest).sub_(detail::matrix_product(v, w));
}

QrFactors qr_by_blocks(const at::Tensor& matrix) {
  at::Tensor triangle = matrix.clone(at::MemoryFormat::Contiguous);
  const int64_t n = matrix.size(0), width = n >= kLarge ? 2 * kColumns : kColumns;
  std::vector<Reflections> blocks;
  for (int64_t begin = 0; begin < n; begin += width) {
    const int64_t columns = std::min(width, n - begin);
    const at::Tensor below = triangle.narrow(0, begin, n - begin);
    blocks.push_back(eliminate(below.narrow(1, begin, columns)));
    const int64_t next = begin + columns;
    if (next < n) reflect(blocks.back(), below.narrow(1, next, n - next));
  }
  at::Tensor q = at::zeros_like(triangle);
  for (int64_t i = static_cast<int64_t>(blocks.size()); i-- > 0;) {
    apply(blocks[static_cast<size_t>(i)], i * width, q);
  }
  return {.orthogonal = q, .triangle = triangle.triu_()};
}

}  // namespace

QrFactors qr(const at::Tensor& matrix) {
  constexpr int64_t kSmallest = 5 * kColumns;  // measured: below, LAPACK is as fast
  if (matrix.size(0) >= kSmallest && detail::is_for_one_dnn(matrix, matrix)) {
    return qr_by_blocks(matrix);
  }
  auto [orthogonal, triangle] = at::linalg_qr(matrix);
  return {.orthogonal = orthogonal, .triangle = triangle};
}

at::Tensor symmetric_product(const QrFactors& factors) {
  const int64_t n = factors.triangle.size(0), step = std::max<int64_t>(128, (n + 5) / 6);
  at::Tensor product = at::zeros_like(factors.triangle, at::MemoryFormat::Contiguous);
  for (int64_t begin = 0; begin < n; begin += step) {
    const int64_t rows = std::min(step, n - begin), end = begin + rows;
    const at::Tensor left = factors.triangle.narrow(0, begin, rows).narrow(1, begin, n - begin);
    const at::Tensor right = factors.orthogonal.narrow(0, begin, n - begin).narrow(1, 0, end);
    product.narrow(0, begin, rows).narrow(1, 0, end).copy_(detail::matrix_product(left, right));
  }
  return product;
}

}  // namespace curvature::optim
