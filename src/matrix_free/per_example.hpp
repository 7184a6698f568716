#pragma once

#include <functional>

#include <curvature/model/empirical_risk.hpp>

#include "matrix_free/linearization.hpp"

namespace curvature::detail {

/// One example of a batch with its output in a graph of its own.
struct Example {
  BatchRisk risk;     ///< a batch of this one example
  at::Tensor output;  ///< `[1, ...]`, with graph
};

/// Visits the examples `first`, ..., `first + count - 1` of this worker, one forward pass each.
void for_each_example(const EmpiricalRisk& risk, int64_t first, int64_t count,
                      const std::function<void(int64_t index, const Example&)>& visit);

}  // namespace curvature::detail
