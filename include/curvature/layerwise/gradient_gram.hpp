#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include <curvature/core/progress.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature {

/// How `gradient_gram` is computed.
struct GradientGramOptions {
  /// Bytes for gradients, 8 for each number; what does not fit costs more passes over the examples.
  /// Empty: `default_memory_budget` of the device.
  std::optional<int64_t> memory_budget = {};
  Observer observer = {};  ///< sees the examples
};

/// Inner products sqrt(w_i w_j) <g_i, g_j> of the gradients of this worker's examples' own losses
/// (as `per_example_gradients` has them), `[N, N]`, computed in float64. Times f (1/N for `mean`, 1
/// for `sum`) it has the nonzero eigenvalues of the second moment f sum_n w_n g_n g_n^T. Without
/// weight decay. Costs one forward and backward pass per example if all gradients fit into the
/// memory budget, one more for each further part of them that fits.
/// @throws OptionError for a negative budget
at::Tensor gradient_gram(const EmpiricalRisk& risk, const GradientGramOptions& options = {});

}  // namespace curvature
