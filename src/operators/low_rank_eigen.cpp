#include "operators/low_rank_eigen.hpp"

#include <algorithm>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>

#include <curvature/core/random.hpp>

#include "core/matrix_product.hpp"
#include "core/qr.hpp"

namespace curvature::detail {
namespace {

/// More columns than the rank: the smallest singular value of a square random matrix may be tiny.
constexpr int64_t kOversampling = 8;

/// The lower triangle of a product `[k, n]` times `[n, k]` that is known to be symmetric, strip by
/// strip: what LAPACK reads.
at::Tensor symmetric_product(const at::Tensor& a, const at::Tensor& b) {
  constexpr int64_t kColumns = 192;  // measured
  const int64_t k = a.size(0);
  at::Tensor product = at::zeros({k, k}, a.options());
  for (int64_t begin = 0; begin < k; begin += kColumns) {
    const int64_t columns = std::min(kColumns, k - begin), below = k - begin;
    product.narrow(0, begin, below)
        .narrow(1, begin, columns)
        .copy_(matrix_product(a.narrow(0, begin, below), b.narrow(1, begin, columns)));
  }
  return product;
}

}  // namespace

bool is_low_rank(int64_t n, int64_t max_rank) {
  // Measured: from here on it is faster than LAPACK.
  constexpr int64_t kSmallest = 256, kLarge = 700;
  const double largest_part = n < kLarge ? 0.58 : 0.67;
  return n >= kSmallest && static_cast<double>(max_rank) <= largest_part * static_cast<double>(n);
}

SymmetricEigen semidefinite_eigen_in_range(const at::Tensor& matrix, int64_t max_rank,
                                           const std::string& who) {
  check_finite(matrix, who);
  const int64_t n = matrix.size(0), k = std::min(n, max_rank + kOversampling);
  // What stays comes first, so that all that passes leaves one hole in the heap.
  at::Tensor vectors = at::empty_like(matrix, at::MemoryFormat::Contiguous);  // as rows
  const at::Tensor signs =
      draw_probes(RandomSource(), Probe::kRademacher, n, 0, k, matrix.options());
  const at::Tensor basis = qr(matrix_product(matrix, signs)).orthogonal.t();  // as rows
  const at::Tensor range = basis.narrow(0, 0, k);
  const SymmetricEigen eigen =
      symmetric_eigen(symmetric_product(range, matrix_product(matrix, range.t())), who);
  vectors.narrow(0, 0, n - k).copy_(basis.narrow(0, k, n - k));
  vectors.narrow(0, n - k, k).copy_(matrix_product(eigen.vectors.t(), range));
  return {at::cat({at::zeros({n - k}, matrix.options()), eigen.values.clamp_min(0)}), vectors.t()};
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
