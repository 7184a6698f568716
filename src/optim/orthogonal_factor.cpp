#include <algorithm>
#include <ranges>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/geqrf.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/zeros_like.h>

#include "core/matrix_product.hpp"
#include "optim/orthogonal_factor.hpp"

namespace curvature::optim {
namespace {

/// Columns of a block: measured. Wider ones leave LAPACK more, narrower ones starve the products.
constexpr int64_t kColumns = 96;

/// The product of a block's reflections, I - V T V^T, on the rows and columns from `begin` on
/// (Schreiber and Van Loan 1989, A storage-efficient WY representation).
struct Reflections {
  int64_t begin;
  at::Tensor v;  ///< `[n - begin, columns]`, unit lower trapezoidal
  at::Tensor t;  ///< `[columns, columns]`, upper triangular
};

/// T from LAPACK's V and tau: T^-1 = diag(1 / tau) + the strict upper triangle of V^T V.
at::Tensor compact_form(const at::Tensor& v, const at::Tensor& tau) {
  const at::Tensor products = detail::matrix_product(v.t(), v).triu(1);
  const at::Tensor left = products * tau.unsqueeze(1);
  return at::linalg_solve_triangular(left, tau.diag(), /*upper=*/true, /*left=*/true,
                                     /*unitriangular=*/true);
}

/// Replaces the columns from `begin` on by R's and gives the reflections that did it.
Reflections eliminate(at::Tensor& matrix, int64_t begin) {
  const int64_t n = matrix.size(0), columns = std::min(kColumns, n - begin);
  const int64_t next = begin + columns, rest = n - next;
  const at::Tensor panel = matrix.narrow(0, begin, n - begin).narrow(1, begin, columns);
  const auto [reduced, tau] = at::geqrf(panel);
  at::Tensor v = reduced.tril(-1).contiguous();
  v.diagonal().fill_(1);
  const at::Tensor t = compact_form(v, tau);
  matrix.narrow(0, begin, columns).narrow(1, begin, columns).copy_(reduced.narrow(0, 0, columns));
  if (rest > 0) {
    at::Tensor trailing = matrix.narrow(0, begin, n - begin).narrow(1, next, rest);
    const at::Tensor w = detail::matrix_product(t.t(), detail::matrix_product(v.t(), trailing));
    trailing.sub_(detail::matrix_product(v, w));
  }
  return {begin, v, t};
}

/// Multiplies Q, which is the identity outside of what later blocks made, by a block's reflections.
void apply(const Reflections& block, at::Tensor& q) {
  const auto& [begin, v, t] = block;
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
  std::vector<Reflections> blocks;
  for (int64_t begin = 0; begin < matrix.size(0); begin += kColumns) {
    blocks.push_back(eliminate(triangle, begin));
  }
  at::Tensor q = at::zeros_like(triangle);
  for (const Reflections& block : std::views::reverse(blocks)) apply(block, q);
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
