#include "spectral/by_columns.hpp"

#include <algorithm>
#include <cmath>
#include <functional>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "spectral/sampling.hpp"

namespace curvature::detail {
namespace {

/// Calls `use(first, columns)` with A e_first, ...; of A^T if `adjoint`.
void for_each_chunk(const LinearOperator& a, bool adjoint, int64_t columns_at_once,
                    const Observer& observer,
                    const std::function<void(int64_t first, const at::Tensor& columns)>& use) {
  const at::NoGradGuard no_grad;
  const int64_t n = adjoint ? a.rows() : a.cols();
  if (observer) observer({"Products with unit vectors", 0, n});
  for (int64_t first = 0; first < n; first += columns_at_once) {
    const int64_t count = std::min(columns_at_once, n - first);
    const at::Tensor unit = identity_columns(n, first, count, options_of(a));
    use(first, adjoint ? a.apply_adjoint(unit) : a.apply(unit));
    if (observer) observer({"Products with unit vectors", first + count, n});
  }
}

}  // namespace

DiagonalEstimate diagonal_by_columns(const LinearOperator& a, int64_t columns_at_once,
                                     const Observer& observer) {
  at::Tensor diagonal = at::empty({a.cols()}, options_of(a));
  for_each_chunk(
      a, false, columns_at_once, observer, [&](int64_t first, const at::Tensor& columns) {
        const int64_t count = columns.size(1);
        diagonal.narrow(0, first, count).copy_(columns.narrow(0, first, count).diagonal());
      });
  CURVATURE_CHECK(detail::is_finite(diagonal), NumericalError, "{}: a product is not finite",
                  a.describe());
  return {.values = diagonal, .products = a.cols(), .exact = true};
}

Estimate trace_by_columns(const LinearOperator& a, int64_t columns_at_once,
                          const Observer& observer) {
  const DiagonalEstimate diagonal = diagonal_by_columns(a, columns_at_once, observer);
  return {.value = diagonal.values.sum(at::kDouble).item<double>(),
          .products = diagonal.products,
          .exact = true};
}

FrobeniusEstimate frobenius_norm_by_columns(const LinearOperator& a, int64_t columns_at_once,
                                            const Observer& observer) {
  const bool by_adjoint = a.rows() < a.cols() && has_adjoint(a);
  double squares = 0;
  for_each_chunk(a, by_adjoint, columns_at_once, observer, [&](int64_t, const at::Tensor& columns) {
    squares += column_dots(columns, columns).sum().item<double>();
  });
  CURVATURE_CHECK(std::isfinite(squares), NumericalError, "{}: a product is not finite",
                  a.describe());
  const Estimate squared{
      .value = squares, .products = by_adjoint ? a.rows() : a.cols(), .exact = true};
  return {.norm = square_root(squared), .squared_norm = squared};
}

}  // namespace curvature::detail
