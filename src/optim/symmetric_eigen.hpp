#pragma once

#include <functional>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include <curvature/optim/covariance_estimator.hpp>

namespace curvature::optim {

/// Eigenvalues in descending order, and eigenvectors as columns.
struct SymmetricEigen {
  at::Tensor values;
  at::Tensor vectors;
};

/// Decomposes the factors of one view and outlives failures: tries again in float64, and if that
/// fails too, says so and lets the caller keep what it has, a few times in a row.
class EigenSolver {
 public:
  using Function = std::function<SymmetricEigen(const at::Tensor&)>;

  /// `decompose` is LibTorch's `linalg_eigh` unless a test puts another in its place.
  explicit EigenSolver(const ParameterView& view, Function decompose = {});

  /// Of a symmetric matrix, factor number `mode` of the view; nothing if it failed.
  /// @throws NumericalError at the fourth failure in a row, or for a matrix that is not finite
  std::optional<SymmetricEigen> operator()(const at::Tensor& matrix, size_t mode);

  void visit(StateVisitor& visitor) { visitor.count("failures", failures_); }

 private:
  std::string name_;
  std::vector<size_t> axes_;  ///< see ParameterView
  std::function<void(const std::string&)> warn_;
  Function decompose_;
  int64_t failures_ = 0;
};

}  // namespace curvature::optim
