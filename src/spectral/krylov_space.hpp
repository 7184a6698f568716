#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/random.hpp>

namespace curvature::detail {

/// Eigenpairs of a projected matrix, ascending.
struct ProjectedPairs {
  std::vector<double> values;
  at::Tensor coefficients;        ///< Y `[m, m]`, float64 on the CPU
  std::vector<double> residuals;  ///< |A u - theta u| of each Ritz vector
};

/// A block Krylov space: A V = V T + W B with orthonormal rows V^T `[m, n]` and W^T `[w, n]` in one
/// buffer (the basis, then the block that comes next) and a projection T that need not be banded.
class KrylovSpace {
 public:
  /// Room for `capacity` <= n vectors and the next block; starts with `start` `[n]`, if it is
  /// defined, and random vectors.
  KrylovSpace(const LinearOperator& a, int64_t capacity, int64_t block_size,
              const RandomSource& random, const at::Tensor& start);

  /// Vectors of the basis, m.
  int64_t size() const { return size_; }
  /// Whether the basis spans all of the space that the operator lets it reach.
  bool exhausted() const { return width_ == 0; }
  bool full() const { return exhausted() || size_ + width_ > capacity_; }
  int64_t products() const { return products_; }
  int64_t num_steps() const { return num_steps_; }
  int64_t basis_passes() const { return basis_passes_; }

  /// Moves the next block into the basis with a product for each of its vectors and makes another
  /// one, filled up with random vectors if it lost rank.
  void expand();
  ProjectedPairs solve() const;
  /// V Y for some columns Y of the coefficients, `[n, k]`, each column contiguous.
  at::Tensor ritz_vectors(const at::Tensor& coefficients) const;

  /// Replaces the basis by the Ritz vectors number `kept` of `pairs`, in place; keeps the next
  /// block. `kept` leaves at least a block to drop.
  void restart(const ProjectedPairs& pairs, const std::vector<int64_t>& kept);
  /// Replaces the basis by converged Ritz vectors, in place, and the next block by random vectors.
  void restart_randomly(const ProjectedPairs& pairs, const std::vector<int64_t>& kept);

 private:
  at::Tensor rows(int64_t begin, int64_t end) const {
    return buffer_.narrow(0, begin, end - begin);
  }
  at::Tensor coupling(int64_t row, int64_t num_rows, int64_t column, int64_t num_columns) const {
    return projection_.narrow(0, row, num_rows).narrow(1, column, num_columns);
  }
  void subtract(at::Tensor& block, int64_t begin, const at::Tensor& coefficients);
  at::Tensor remove_basis(at::Tensor& block, int64_t count);
  struct Factored;
  Factored orthonormalize(at::Tensor& block, int64_t count, double smallest);
  void fill_up();

  const LinearOperator& a_;
  int64_t capacity_;
  int64_t block_size_;
  RandomSource random_;
  uint64_t next_stream_ = 0;
  at::Tensor buffer_;      ///< `[capacity + block_size, n]`
  at::Tensor projection_;  ///< T and, below and beside it, B; float64 on the CPU
  int64_t size_ = 0;
  int64_t width_ = 0;         ///< of the next block
  int64_t coupled_from_ = 0;  ///< first row of the basis that the next block is coupled to
  double scale_ = 0;          ///< |A| from below
  int64_t products_ = 0;
  int64_t num_steps_ = 0;
  int64_t basis_passes_ = 0;
};

}  // namespace curvature::detail
