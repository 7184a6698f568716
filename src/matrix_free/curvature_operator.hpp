#pragma once

#include <string>

#include <curvature/core/linear_operator.hpp>

#include "matrix_free/linearization.hpp"

namespace curvature::detail {

/// Base of the operators on parameter space that are sums over batches, plus weight decay.
class CurvatureOperator : public LinearOperator {
 public:
  CurvatureOperator(const EmpiricalRisk& risk, const MatrixFreeOptions& options, std::string name,
                    Symmetry symmetry, double weight_decay);

  std::string describe() const final;

 protected:
  TensorList apply_impl(const TensorList& x) const final;
  at::Tensor apply_flat_impl(const at::Tensor& x) const final;
  /// Adds the batch's part of A x, block by block and column by column.
  virtual void add_batch(int64_t index, const Columns& x, ColumnSums& sums) const = 0;

  const EmpiricalRisk& risk() const noexcept { return risk_; }
  const Partition& blocks() const noexcept { return blocks_; }

 private:
  ColumnSums sums_over_batches(const Columns& x) const;

  EmpiricalRisk risk_;
  Observer observer_;
  std::string name_;
  Partition blocks_;
  double weight_decay_;
  std::vector<int64_t> versions_;
};

/// The specification of a symmetric operator on the risk's parameters.
OperatorSpec parameter_spec(const EmpiricalRisk& risk, Symmetry symmetry);

}  // namespace curvature::detail
