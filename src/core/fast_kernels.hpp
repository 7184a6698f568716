#pragma once

namespace curvature::detail {

/// While one lives, some operations of this thread go through kernels of this library that compute
/// the same faster (CPU; `kernels.hpp`): products of large matrices, second derivatives of
/// convolutions and of batch normalisation with fixed statistics. Graphs built meanwhile may be
/// differentiated afterwards, any number of times.
class FastKernels {
 public:
  FastKernels();
  ~FastKernels();
  FastKernels(const FastKernels&) = delete;
  FastKernels& operator=(const FastKernels&) = delete;

  /// Whether one lives in this thread.
  static bool on();

 private:
  bool before_;
};

/// While one lives as well, products of this thread of which a factor is zero are zeros that nobody
/// computes (CPU): matrices, batches of them, gradients of convolutions. For a backward pass whose
/// graph alone is wanted and whose cotangent is therefore zero. What is not finite in the other
/// factor does not show.
class ZeroProducts {
 public:
  ZeroProducts();
  ~ZeroProducts();
  ZeroProducts(const ZeroProducts&) = delete;
  ZeroProducts& operator=(const ZeroProducts&) = delete;

  /// Whether one lives in this thread.
  static bool on();

 private:
  bool before_;
};

}  // namespace curvature::detail
