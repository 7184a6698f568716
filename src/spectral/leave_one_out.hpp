#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// Y = A Omega = Q R for a growing number of columns, Q orthonormal, and which part of the range
/// depends on which column.
class RangeSketch {
 public:
  /// Appends columns Omega `[n, b]` and their products. Existing columns of Q stay as they are.
  void append(const at::Tensor& omega, const at::Tensor& y);

  const at::Tensor& omega() const { return omega_; }  ///< `[n, k]`
  const at::Tensor& products() const { return y_; }   ///< Y `[n, k]`
  const at::Tensor& basis() const { return q_; }      ///< Q `[n, k]`
  const at::Tensor& factor() const { return r_; }  ///< R `[k, k]`, upper triangular, float64, CPU
  int64_t size() const { return q_.size(1); }

 private:
  at::Tensor omega_, y_, q_, r_;
};

/// How the range of Y = Q R shrinks when one of its columns is left out.
struct LeaveOneOut {
  /// P: the range of Y is that of Q P. `[k, k]`, float64, on the CPU.
  at::Tensor projector;
  /// s_i as columns: without column i, the range is that of Q (P - s_i s_i^T); zero where the
  /// others span the same. `[k, k]`.
  at::Tensor directions;
  int64_t rank;    ///< of Y
  bool redundant;  ///< whether no column is missed
};

/// From R, whose singular values below `tolerance` times the largest are rounding errors of zeros.
LeaveOneOut leave_one_out(const at::Tensor& r, double tolerance);

}  // namespace curvature::detail
