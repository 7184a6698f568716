#include "operators/low_rank_eigen.hpp"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/zeros.h>

#include <curvature/core/random.hpp>

#include "core/epsilon.hpp"
#include "core/matrix_product.hpp"
#include "core/qr.hpp"

namespace curvature::detail {
namespace {

/// More columns than the rank: the smallest singular value of a square random matrix may be tiny.
constexpr int64_t kOversampling = 8;

/// The lower triangle of Q^T (A Q), given Q^T `[k, n]` and A Q `[n, k]`.
at::Tensor in_basis(const at::Tensor& range, const at::Tensor& products) {
  constexpr int64_t kColumns = 192;  // measured
  const int64_t k = range.size(0);
  return symmetric_by_strips(k, kColumns, range.options(), [&](int64_t begin, int64_t count) {
    return matrix_product(range.narrow(0, begin, k - begin), products.narrow(1, begin, count));
  });
}

/// How many columns a basis of the range may have for a way through it to be faster than LAPACK.
int64_t most_columns(int64_t n) {
  constexpr int64_t kSmallest = 256, kLarge = 700;  // all measured
  if (n < kSmallest) return 0;
  const double part = (n < kLarge ? 0.58 : 0.67) * (has_avx512() ? 1 : 0.86);
  return static_cast<int64_t>(part * static_cast<double>(n));
}

double frobenius_norm(const at::Tensor& x) {
  return at::linalg_vector_norm(x, 2, at::nullopt, false, at::kDouble).item<double>();
}

/// A basis of the range of the matrix, or of the part of it whose eigenvalues are more than what
/// LAPACK's rounding leaves of others, from products with random signs: at most `bound` vectors.
/// Nothing as soon as it is clear that it will not be less than `most` of them.
std::optional<GrowingBasis> range_of(const at::Tensor& matrix, int64_t bound, int64_t most) {
  const int64_t n = matrix.size(0);
  // LAPACK's backward error is about sqrt(n) eps / 2 of |A|_F: measured.
  const double negligible =
      0.25 * std::sqrt(static_cast<double>(n)) * epsilon(matrix.scalar_type());
  GrowingBasis basis(n, matrix.options());
  double all = 0;          // |A|_F, as the first products tell
  double part_before = 0;  // of the way from there to `negligible`, in orders of magnitude
  while (basis.size() < bound) {
    const int64_t done = basis.size(), count = std::min(basis.block_width(), bound - done);
    const at::Tensor signs =
        draw_probes(RandomSource(), Probe::kRademacher, n, done, count, matrix.options());
    const at::Tensor beyond = basis.beyond(matrix_product(signs.t(), matrix));
    const double rest =
        frobenius_norm(beyond) / std::sqrt(static_cast<double>(count));  // |(I - P) A|_F
    if (done == 0) all = rest;
    if (rest <= negligible * all) break;
    if (bound > most && done > 0) {
      // What is left falls slower and slower: at the pace of the last block, or more.
      const double part = std::log(rest / all) / std::log(negligible), gain = part - part_before;
      const auto columns_left = static_cast<double>(most - done);
      if (gain * columns_left < (1 - part) * static_cast<double>(basis.block_width())) {
        return std::nullopt;
      }
      part_before = part;
    }
    basis.add(beyond);
  }
  return basis;
}

SymmetricEigen eigen_in(const GrowingBasis& basis_of_range, const at::Tensor& matrix,
                        const std::string& who) {
  const int64_t n = matrix.size(0), k = basis_of_range.size();
  // What stays comes first, so that all that passes leaves one hole in the heap.
  at::Tensor vectors = at::empty_like(matrix, at::MemoryFormat::Contiguous);  // as rows
  const at::Tensor basis = basis_of_range.complete().t();                     // as rows
  const at::Tensor range = basis.narrow(0, 0, k);
  const SymmetricEigen eigen =
      symmetric_eigen(in_basis(range, matrix_product(matrix, range.t())).t(), who);
  vectors.narrow(0, 0, n - k).copy_(basis.narrow(0, k, n - k));
  vectors.narrow(0, n - k, k).copy_(matrix_product(eigen.vectors.t(), range));
  return {at::cat({at::zeros({n - k}, matrix.options()), eigen.values.clamp_min(0)}), vectors.t()};
}

}  // namespace

SymmetricEigen semidefinite_eigen_in_range(const at::Tensor& matrix, int64_t max_rank,
                                           const std::string& who) {
  check_finite(matrix, who);
  const int64_t bound = std::min(matrix.size(0), max_rank + kOversampling);
  return eigen_in(*range_of(matrix, bound, bound), matrix, who);
}

SymmetricEigen semidefinite_eigen(const at::Tensor& matrix, int64_t max_rank,
                                  const std::string& who) {
  const int64_t n = matrix.size(0), most = most_columns(n);
  if (most > 0 && max_rank < n) {
    check_finite(matrix, who);
    const auto range = range_of(matrix, std::min(n, max_rank + kOversampling), most);
    if (range) return eigen_in(*range, matrix, who);
  }
  SymmetricEigen eigen = symmetric_eigen(matrix, who);
  eigen.values.clamp_min_(0);
  return eigen;
}

}  // namespace curvature::detail
