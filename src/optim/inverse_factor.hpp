#pragma once

#include <cstdint>
#include <memory>

#include <curvature/core/random.hpp>

#include "optim/structured_factor.hpp"

namespace curvature::optim {

/// K of an inverse factor K K^T that is learned by small steps, and the average N of their
/// directions. Tensors are replaced, never written to, so that copies share them.
class InverseFactor {
 public:
  /// K = I and N = 0 as `state` says. Arithmetic is in the wider of its dtype and `arithmetic`, and
  /// at least in float32.
  InverseFactor(std::unique_ptr<MatrixClass> structure, const at::TensorOptions& state,
                at::ScalarType arithmetic);

  const MatrixClass& structure() const { return *structure_; }
  /// K and N in the dtype of arithmetic.
  Parts wide_k() const;
  Parts wide_direction() const;

  /// K <- K (I - rate N), and N is kept. To the nearest numbers, but in bfloat16 K goes up or down
  /// at random so that the mean is right: there most steps are less than half of a number's
  /// distance to the next and would be lost. Numbers are those of one stream, an entry each.
  void move(const Parts& n, double rate, const RandomSource& random, uint64_t stream);
  /// K K^T on an axis of x, in its dtype. K K^T is computed once for each K where that halves the
  /// work.
  at::Tensor precondition(const at::Tensor& x, size_t mode);
  /// Of K, N, and K K^T if it is kept.
  int64_t state_bytes() const;

  Parts k, direction;  ///< as they are kept

 private:
  bool keeps_outer() const;

  std::shared_ptr<const MatrixClass> structure_;
  at::ScalarType wide_;
  at::Tensor outer_, outer_of_;  ///< K K^T, and of which K
};

}  // namespace curvature::optim
