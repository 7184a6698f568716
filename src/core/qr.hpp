#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

namespace curvature::detail {

/// An orthonormal basis of R^n that grows: its first vectors span all that was added. Kept as
/// Householder reflections, block by block in the compact WY form (Schreiber, Van Loan, 1989).
class GrowingBasis {
 public:
  GrowingBasis(int64_t n, const at::TensorOptions& options) : n_(n), options_(options) {}

  /// Dimension of what was added.
  int64_t size() const noexcept { return size_; }
  /// How many vectors are best added at once.
  int64_t block_width() const;

  /// Turns vectors, rows `[k, n]`, into their coordinates along the basis, in place; returns those
  /// beyond the span, `[k, n - size]`.
  at::Tensor beyond(at::Tensor rows) const;

  /// A product of reflections, I - V T V^T.
  struct Reflections {
    at::Tensor rows;    ///< V^T `[columns, length]`, unit upper trapezoidal
    at::Tensor scaled;  ///< -T V^T
  };
  /// Adds the vectors `[k, n - size]`, k at most n - size, that `beyond` returned, which become
  /// coordinates in the basis that grew: lower triangular. Returns what turned them, until the next
  /// is added.
  const Reflections& add(at::Tensor beyond);
  /// All vectors as columns `[n, n]`, each contiguous.
  at::Tensor complete() const;

 private:
  int64_t n_;
  at::TensorOptions options_;
  int64_t size_ = 0;
  std::vector<Reflections> blocks_;
};

/// A = Q R for a matrix `[m, n]`, m >= n, with Q orthogonal `[m, m]` and R upper triangular `[m,
/// n]`.
struct QrFactors {
  at::Tensor orthogonal;
  at::Tensor triangle;
};

/// By Householder reflections: LAPACK's, or, for large matrices in float32 on a CPU, blocks of them
/// in the compact WY form by `matrix_product`, which is faster. Needs (8/3) n^3 operations for
/// square matrices.
QrFactors qr(const at::Tensor& matrix);

/// For a square matrix the lower triangle of R Q, a product that is known to be symmetric; what is
/// above holds no meaning. Needs (2/3) n^3 operations.
at::Tensor symmetric_product(const QrFactors& factors);

}  // namespace curvature::detail
