#pragma once

#include <curvature/core/space.hpp>

namespace curvature {

/// How contributions of several workers are summed: the seam for data spread over many machines.
/// Each worker holds its own shard of the data, makes the same calls in the same order, and gets
/// the sum over all workers.
class Reducer {
 public:
  virtual ~Reducer() = default;
  /// Replaces each tensor by its sum over all workers, in place.
  virtual void sum(TensorList& contributions) const = 0;
};

/// One worker: sums are what they are.
class InProcessReducer final : public Reducer {
 public:
  void sum(TensorList&) const override {}
};

}  // namespace curvature
