#pragma once

#include <curvature/model/loss.hpp>

namespace curvature::detail {

/// Whether an output `[B]` stands for one number per example.
enum class VectorOutput { kAllowed, kRefused };

/// A loss whose terms are rows along a class axis of the output.
class RowLoss : public Loss {
 public:
  RowLoss(std::string name, int64_t class_axis, VectorOutput vector_output);

  std::string name() const final { return name_; }
  at::Tensor rows(const at::Tensor& output) const final;
  at::Tensor unrows(const at::Tensor& rows, const at::Tensor& output) const final;

 protected:
  /// Position of the class axis in an output with `dim` axes. @throws ModelError
  int64_t class_axis(int64_t dim) const;
  /// @throws DataError unless `targets` has exactly the shape `expected`
  void check_shape(const at::Tensor& targets, at::IntArrayRef expected) const;
  /// @throws DataError unless `targets` has `dtype` and is finite
  void check_real(const at::Tensor& targets, at::ScalarType dtype) const;

 private:
  std::string name_;
  int64_t class_axis_;
  VectorOutput vector_output_;
};

}  // namespace curvature::detail
