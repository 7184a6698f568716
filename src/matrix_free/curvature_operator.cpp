#include "matrix_free/curvature_operator.hpp"

#include <ATen/TensorOperators.h>

#include "core/check.hpp"
#include "core/transposition.hpp"

namespace curvature::detail {

OperatorSpec parameter_spec(const EmpiricalRisk& risk, Symmetry symmetry) {
  const at::Tensor& parameter = risk.parameters().front();
  return {risk.space(), risk.space(), parameter.scalar_type(), parameter.device(), symmetry};
}

CurvatureOperator::CurvatureOperator(const EmpiricalRisk& risk, const MatrixFreeOptions& options,
                                     std::string name, Symmetry symmetry, double weight_decay)
    : LinearOperator(parameter_spec(risk, symmetry)),
      risk_(risk),
      observer_(options.observer),
      name_(std::move(name)),
      blocks_(partition(risk.space(), options.blocks)),
      weight_decay_(weight_decay),
      versions_(risk.versions()) {}

std::string CurvatureOperator::describe() const { return fmt::format("{}(n={})", name_, rows()); }

TensorList CurvatureOperator::apply_impl(const TensorList& x) const {
  TensorList result = sums_over_batches(Columns(x)).list();
  risk_.reducer().sum(result);
  if (weight_decay_ > 0) {
    for (size_t i = 0; i < result.size(); ++i) result[i].add_(x[i], weight_decay_);
  }
  return result;
}

at::Tensor CurvatureOperator::apply_flat_impl(const at::Tensor& x) const {
  const at::Tensor columns = columns_as_rows(x);
  TensorList rows = {sums_over_batches(Columns(columns, risk_.space())).rows()};
  risk_.reducer().sum(rows);
  if (weight_decay_ > 0) rows.front().add_(columns, weight_decay_);
  return rows.front().t();  // a transposition in memory would cost more than a small product
}

ColumnSums CurvatureOperator::sums_over_batches(const Columns& x) const {
  risk_.check_versions(versions_, describe());
  const int64_t num_batches = risk_.data().num_batches();
  ColumnSums sums(risk_.space(), x.size(),
                  risk_.parameters().front().options().requires_grad(false));
  for (int64_t index = 0; index < num_batches; ++index) {
    add_batch(index, x, sums);
    if (observer_) observer_({"product", index + 1, num_batches});
  }
  return sums;
}

}  // namespace curvature::detail
