#include "operators/low_rank_eigen.hpp"

#include <algorithm>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/geqrf.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/zeros.h>

#include <curvature/core/random.hpp>

#include "core/matrix_product.hpp"

namespace curvature::detail {
namespace {

/// More columns than the rank: the smallest singular value of a square random matrix may be tiny.
constexpr int64_t kOversampling = 8;

/// The orthogonal matrix H = I - V T V^T `[n, n]` whose first k columns span those of `matrix`
/// `[n, k]`.
class Reflections {
 public:
  explicit Reflections(const at::Tensor& matrix) {
    const auto [packed, tau] = at::geqrf(matrix);
    // Where nothing was left to reflect tau is 0: a reflection with v = 0.
    const at::Tensor is_idle = tau.eq(0);
    v_ = packed.tril(-1);
    v_.diagonal().fill_(1);
    v_.masked_fill_(is_idle, 0);
    // T^-1 is the upper triangle of V^T V with 1 / tau on the diagonal (Puglisi, 1992).
    at::Tensor inverse = matrix_product(v_.t(), v_);
    inverse.diagonal().copy_(tau.masked_fill(is_idle, 1).reciprocal_());
    vt_ = at::linalg_solve_triangular(inverse, v_, /*upper=*/true, /*left=*/false);
  }

  /// Columns number `begin`, ..., `begin + count - 1`, as rows `[count, n]`.
  at::Tensor columns(int64_t begin, int64_t count) const {
    at::Tensor rows = matrix_product(v_.narrow(0, begin, count), vt_.t()).neg_();
    rows.diagonal(begin).add_(1);
    return rows;
  }

 private:
  at::Tensor v_;   // `[n, k]`, unit lower trapezoidal
  at::Tensor vt_;  // V T
};

}  // namespace

bool is_low_rank(int64_t n, int64_t max_rank) {
  // Measured: from here on it is faster than LAPACK.
  constexpr int64_t kSmallest = 256;
  constexpr double kLargestPart = 0.55;
  return n >= kSmallest && static_cast<double>(max_rank) <= kLargestPart * static_cast<double>(n);
}

SymmetricEigen semidefinite_eigen_in_range(const at::Tensor& matrix, int64_t max_rank,
                                           const std::string& who) {
  check_finite(matrix, who);
  const int64_t n = matrix.size(0), k = std::min(n, max_rank + kOversampling);
  const at::Tensor signs =
      draw_probes(RandomSource(), Probe::kRademacher, n, 0, k, matrix.options());
  const Reflections reflections(matrix_product(matrix, signs));
  const at::Tensor range = reflections.columns(0, k);  // as rows
  const at::Tensor projected = matrix_product(range, matrix_product(matrix, range.t()));
  const SymmetricEigen eigen = symmetric_eigen(projected, who);
  const at::Tensor vectors = matrix_product(eigen.vectors.t(), range);
  return {at::cat({at::zeros({n - k}, matrix.options()), eigen.values.clamp_min(0)}),
          at::cat({reflections.columns(k, n - k), vectors}).t()};
}

SymmetricEigen semidefinite_eigen(const at::Tensor& matrix, int64_t max_rank,
                                  const std::string& who) {
  if (is_low_rank(matrix.size(0), max_rank)) {
    return semidefinite_eigen_in_range(matrix, max_rank, who);
  }
  SymmetricEigen eigen = symmetric_eigen(matrix, who);
  eigen.values.clamp_min_(0);
  return eigen;
}

}  // namespace curvature::detail
