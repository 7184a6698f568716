#include "operators/low_rank_eigen.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <curvature/core/random.hpp>

#include "core/epsilon.hpp"
#include "core/matrix_product.hpp"
#include "core/qr.hpp"
#include "operators/pivoted_cholesky.hpp"

namespace curvature::detail {
namespace {

/// How many columns a basis of the range may have for a way through it to be faster than LAPACK.
int64_t most_columns(int64_t n) {
  constexpr int64_t kSmallest = 256, kLarge = 700;  // all measured
  if (n < kSmallest) return 0;
  return static_cast<int64_t>((n < kLarge ? 0.58 : 0.67) * static_cast<double>(n));
}

/// A matrix in a basis of its range, or of the part of it whose eigenvalues are more than what
/// LAPACK's rounding leaves of others.
struct InRange {
  at::Tensor basis;  ///< Q^T `[n, n]`, of which the first k rows span the range
  at::Tensor lower;  ///< triangle of the matrix in their basis `[k, k]`
};

constexpr int64_t kColumns = 192;  ///< of a symmetric product at once: measured

/// When a range is found, and when it is not worth finding.
struct Limits {
  int64_t bound;      ///< on the columns
  int64_t most;       ///< columns for which it is worth it
  double negligible;  ///< part of |A|_F

  /// Whether `count` columns that leave a part of |A|_F promise that there will be few enough. What
  /// is left falls slower and slower: what they took away, others will not. The first third is
  /// cheap, and a matrix of a low rank may end at once.
  bool is_worth_it(int64_t count, double left) const {
    const double part_done = std::log(left) / std::log(negligible);
    return bound <= most || 3 * count < most ||
           part_done * static_cast<double>(most) >= static_cast<double>(count);
  }
};

/// By products with random signs, 4 n^2 k operations: about as accurate as LAPACK.
std::optional<InRange> in_range_by_products(const at::Tensor& matrix, const Limits& limits) {
  const int64_t n = matrix.size(0);
  GrowingBasis basis(n, matrix.options());
  double all = 0;  // |A|_F, as the first products tell
  while (basis.size() < limits.bound) {
    const int64_t done = basis.size(), count = std::min(basis.block_width(), limits.bound - done);
    const at::Tensor signs =
        draw_probes(RandomSource(), Probe::kRademacher, n, done, count, matrix.options());
    const at::Tensor beyond = basis.beyond(matrix_product(signs.t(), matrix));
    const double rest =
        frobenius_norm(beyond) / std::sqrt(static_cast<double>(count));  // |(I - P) A|_F
    if (done == 0) all = rest;
    if (rest <= limits.negligible * all) break;
    if (done > 0 && !limits.is_worth_it(done, rest / all)) return std::nullopt;
    basis.add(beyond);
  }
  const int64_t k = basis.size();
  const at::Tensor all_rows = basis.complete().t(), range = all_rows.narrow(0, 0, k);
  const at::Tensor products = matrix_product(matrix, range.t());
  return InRange{
      all_rows,
      symmetric_by_strips(k, kColumns, matrix.options(), [&](int64_t begin, int64_t count) {
        return matrix_product(range.narrow(0, begin, k - begin), products.narrow(1, begin, count));
      })};
}

/// From A = L L^T = Q (R R^T) Q^T: in n k^2 to 2 n k^2 operations, with errors of up to twice
/// LAPACK's.
std::optional<InRange> in_range_by_cholesky(const at::Tensor& matrix, const Limits& limits) {
  const at::Tensor rows = pivoted_cholesky(
      matrix, {limits.bound, limits.negligible,
               [&](int64_t count, double left) { return limits.is_worth_it(count, left); }});
  if (!rows.defined()) return std::nullopt;
  const int64_t k = rows.size(0);
  GrowingBasis basis(matrix.size(0), matrix.options());
  while (basis.size() < k) {
    const int64_t done = basis.size(), count = std::min(basis.block_width(), k - done);
    basis.add(basis.beyond(rows.narrow(0, done, count)));
  }
  const at::Tensor triangle = rows.narrow(1, 0, k).tril();  // R^T
  return InRange{
      basis.complete().t(),
      symmetric_by_strips(k, kColumns, matrix.options(), [&](int64_t begin, int64_t count) {
        const at::Tensor below = triangle.narrow(0, begin, k - begin).narrow(1, begin, k - begin);
        return matrix_product(below.t(), below.narrow(1, 0, count));
      })};
}

/// Nothing as soon as it is clear that the range has not less than `most` dimensions.
std::optional<InRange> in_range(const at::Tensor& matrix, int64_t max_rank, int64_t most) {
  // More columns than the rank: the smallest singular value of a random matrix may be tiny.
  constexpr int64_t kOversampling = 8;
  const int64_t n = matrix.size(0);
  // LAPACK's backward error is about sqrt(n) eps / 2 of |A|_F: measured.
  const double negligible =
      0.25 * std::sqrt(static_cast<double>(n)) * epsilon(matrix.scalar_type());
  // Who asks for float64 asks for all of its digits.
  if (matrix.scalar_type() == at::kDouble) {
    return in_range_by_products(matrix, {std::min(n, max_rank + kOversampling), most, negligible});
  }
  return in_range_by_cholesky(matrix, {std::min(n, max_rank), most, negligible});
}

SymmetricEigen eigen_of(const InRange& matrix, const std::string& who) {
  const int64_t k = matrix.lower.size(0), n = matrix.basis.size(0);
  // What stays comes first, so that all that passes leaves one hole in the heap.
  const at::Tensor vectors = at::empty_like(matrix.basis, at::MemoryFormat::Contiguous);  // as rows
  const SymmetricEigen eigen = symmetric_eigen(matrix.lower.t(), who);
  vectors.narrow(0, 0, n - k).copy_(matrix.basis.narrow(0, k, n - k));
  vectors.narrow(0, n - k, k)
      .copy_(matrix_product(eigen.vectors.t(), matrix.basis.narrow(0, 0, k)));
  return {at::cat({at::zeros({n - k}, vectors.options()), eigen.values.clamp_min(0)}), vectors.t()};
}

}  // namespace

SymmetricEigen semidefinite_eigen_in_range(const at::Tensor& matrix, int64_t max_rank,
                                           const std::string& who) {
  check_finite(matrix, who);
  return eigen_of(*in_range(matrix, max_rank, matrix.size(0)), who);
}

SymmetricEigen semidefinite_eigen(at::Tensor matrix, int64_t max_rank, const std::string& who) {
  const int64_t n = matrix.size(0), most = most_columns(n);
  if (most > 0 && max_rank < n) {
    check_finite(matrix, who);
    if (const auto found = in_range(matrix, max_rank, most)) {
      matrix.reset();  // as large as the basis, and as the eigenvectors
      return eigen_of(*found, who);
    }
  }
  SymmetricEigen eigen = symmetric_eigen(matrix, who);
  eigen.values.clamp_min_(0);
  return eigen;
}

}  // namespace curvature::detail
