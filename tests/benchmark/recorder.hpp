#pragma once

#include <cstdio>
#include <functional>
#include <string>
#include <utility>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

#include "rows.hpp"

namespace curvature::benchmark {

/// Times calls, and sends a row for each.
class Recorder {
 public:
  /// Rows begin with `identity` (library, workload, threads) and go to `sink`.
  Recorder(Json identity, double budget_seconds, std::FILE* sink)
      : identity_(std::move(identity)), budget_(budget_seconds), sink_(sink) {}

  /// Records the median seconds of `work` after one call that warms up: at least 3 calls, at most
  /// 30, and no more than fit into the budget. A warm-up beyond the budget is the measurement.
  /// `extra` tells `value` and `note` afterwards.
  void measure(const std::string& operation, const std::string& phase,
               const std::function<void()>& work, const std::function<Json()>& extra = {}) const;

  /// Records products of `a` with `probe(a, columns)`, and their value tr V^T A V.
  void product(const std::string& operation, const LinearOperator& a, int64_t columns = 1) const;

 private:
  Json identity_;
  double budget_;
  std::FILE* sink_;
};

/// v_i = cos(i), i = 0, 1, ..., or columns V_ik = cos(i + k), from which `a` can be applied.
at::Tensor probe(const LinearOperator& a, int64_t columns = 1);

/// The sum of the products of entries, in float64.
double inner(const at::Tensor& a, const at::Tensor& b);

}  // namespace curvature::benchmark
