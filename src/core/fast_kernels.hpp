#pragma once

namespace curvature::detail {

/// Something that is on in this thread while one of these lives, and afterwards what it was before.
template <class Tag>
class ThreadSwitch {
 public:
  ThreadSwitch();
  ~ThreadSwitch();
  ThreadSwitch(const ThreadSwitch&) = delete;
  ThreadSwitch& operator=(const ThreadSwitch&) = delete;

  /// Whether one lives in this thread.
  static bool on();

 private:
  bool before_;
};

/// While one lives, some operations of this thread go through kernels of this library that compute
/// the same faster (CPU; `kernels.hpp`): products of large matrices, convolutions with kernels of
/// 3 x 3 (`winograd.hpp`), second derivatives of convolutions, of batch normalisation with fixed
/// statistics, of layer normalisation, of GELU and of the softmax. Graphs built meanwhile may be
/// differentiated afterwards, any number of times.
using FastKernels = ThreadSwitch<struct FastKernelsTag>;

/// While one lives, products of this thread of which a factor is zero are zeros that nobody
/// computes (CPU): matrices, batches of them, gradients of convolutions. For a backward pass whose
/// graph alone is wanted and whose cotangent is therefore zero. What is not finite in the other
/// factor does not show.
using ZeroProducts = ThreadSwitch<struct ZeroProductsTag>;

/// While one lives, this thread multiplies by oneDNN what it can, also on processors on which
/// LibTorch's BLAS is faster (`matrix_product.hpp`): tests do so, and are the same everywhere.
using OneDnnEverywhere = ThreadSwitch<struct OneDnnEverywhereTag>;

}  // namespace curvature::detail
