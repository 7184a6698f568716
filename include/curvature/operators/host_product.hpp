#pragma once

#include <atomic>
#include <cstdint>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// An operator of any dtype and device as the matrix-free product that Spectra and Eigen-style
/// solvers expect: float64 arrays in host memory. Counts products; thread-safe.
class HostProduct {
 public:
  using Scalar = double;  ///< whatever the operator's dtype is

  /// @throws OptionError if `a` is null
  explicit HostProduct(OperatorPtr a);

  /// Length of A x.
  int64_t rows() const noexcept { return operator_->rows(); }
  /// Length of x.
  int64_t cols() const noexcept { return operator_->cols(); }
  /// y = A x; x has `cols()` numbers, y `rows()`, and they do not overlap.
  void perform_op(const double* x, double* y) const;
  /// y = A^T x; x has `rows()` numbers, y `cols()`.
  void perform_adjoint_op(const double* x, double* y) const;
  /// Products so far, by A and A^T.
  int64_t num_products() const noexcept { return num_products_.load(); }

 private:
  OperatorPtr operator_;
  mutable std::atomic<int64_t> num_products_ = 0;
};

}  // namespace curvature
