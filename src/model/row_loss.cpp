#include "model/row_loss.hpp"

#include "core/check.hpp"
#include "core/finite.hpp"

namespace curvature::detail {

RowLoss::RowLoss(std::string name, int64_t class_axis, VectorOutput vector_output)
    : name_(std::move(name)), class_axis_(class_axis), vector_output_(vector_output) {}

int64_t RowLoss::class_axis(int64_t dim) const {
  const int64_t axis = class_axis_ < 0 ? dim + class_axis_ : class_axis_;
  CURVATURE_CHECK(
      0 < axis && axis < dim, ModelError,
      "{}: the model's output has {} axes, the first for examples; class axis {} is not "
      "among the others",
      name_, dim, class_axis_);
  return axis;
}

at::Tensor RowLoss::rows(const at::Tensor& output) const {
  if (output.dim() == 1 && vector_output_ == VectorOutput::kAllowed) return output.unsqueeze(1);
  const int64_t axis = class_axis(output.dim());
  CURVATURE_CHECK(output.size(axis) > 0, ModelError, "{}: the model's output {} has no classes",
                  name_, to_string(output.sizes()));
  return output.movedim(axis, -1).reshape({-1, output.size(axis)});
}

at::Tensor RowLoss::unrows(const at::Tensor& rows, const at::Tensor& output) const {
  std::vector<int64_t> shape;
  const bool is_vector = output.dim() == 1;
  const at::Tensor moved = is_vector ? output : output.movedim(class_axis(output.dim()), -1);
  shape.assign(moved.sizes().begin(), moved.sizes().end());
  for (int64_t axis = 2; axis < rows.dim(); ++axis) shape.push_back(rows.size(axis));
  const at::Tensor shaped = rows.reshape(shape);
  return is_vector ? shaped : shaped.movedim(output.dim() - 1, class_axis(output.dim()));
}

void RowLoss::check_shape(const at::Tensor& targets, at::IntArrayRef expected) const {
  CURVATURE_CHECK(targets.defined(), DataError, "{}: the batch has no targets", name_);
  CURVATURE_CHECK(targets.sizes() == expected, DataError,
                  "{}: targets do not fit the model's output; expected {}, got {}", name_,
                  to_string(expected), to_string(targets.sizes()));
}

void RowLoss::check_real(const at::Tensor& targets, at::ScalarType dtype) const {
  CURVATURE_CHECK(targets.defined(), DataError, "{}: the batch has no targets", name_);
  CURVATURE_CHECK(targets.scalar_type() == dtype, DataError,
                  "{}: targets must have the model's dtype; expected {}, got {}", name_,
                  c10::toString(dtype), c10::toString(targets.scalar_type()));
  CURVATURE_CHECK(detail::is_finite(targets), DataError, "{}: targets contain NaN or infinity",
                  name_);
}

}  // namespace curvature::detail
