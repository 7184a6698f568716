#pragma once

#include <cstdint>
#include <utility>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/operators/host_product.hpp>

namespace curvature::detail {

/// P (scale A + shift I) P on float64 arrays of the host, for Spectra; P projects onto the
/// orthogonal complement of the deflated vectors. Counts its products.
class ShiftedProduct {
 public:
  using Scalar = double;

  ShiftedProduct(const LinearOperator& a, double scale, double shift, Observer observer)
      : a_(OperatorPtr(OperatorPtr(), &a)),  // borrowed
        scale_(scale),
        shift_(shift),
        observer_(std::move(observer)) {}

  int64_t rows() const noexcept { return a_.rows(); }
  int64_t cols() const noexcept { return a_.rows(); }
  void perform_op(const double* x, double* y) const;

  /// From now on removes the span of `vectors` `[n, k]`, orthonormal, float64 on the CPU.
  void deflate(const at::Tensor& vectors) { deflated_ = vectors; }
  int64_t products() const noexcept { return a_.num_products(); }

 private:
  void project(at::Tensor& x) const;

  HostProduct a_;
  double scale_;
  double shift_;
  Observer observer_;
  at::Tensor deflated_;
};

}  // namespace curvature::detail
