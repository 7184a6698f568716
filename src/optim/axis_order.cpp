#include "optim/axis_order.hpp"

#include <algorithm>
#include <numeric>

#include "core/transposition.hpp"

namespace curvature::optim {
namespace {

/// The two longest axes last (of equal ones the later), all others before them, else as they are.
std::vector<size_t> long_axes_last(const Shape& shape) {
  std::vector<size_t> axes(shape.size());
  std::iota(axes.begin(), axes.end(), size_t{0});
  std::vector<size_t> by_length = axes;
  std::ranges::stable_sort(by_length, {}, [&](size_t axis) { return shape[axis]; });
  const std::vector<size_t> longest(by_length.end() - 2, by_length.end());
  std::ranges::stable_partition(
      axes, [&](size_t axis) { return std::ranges::find(longest, axis) == longest.end(); });
  return axes;
}

/// Copies by transposing two groups of axes where the order allows it, which is much faster.
at::Tensor permuted(const at::Tensor& x, const std::vector<size_t>& axes) {
  const size_t n = axes.size(), first = axes.front();
  Shape order, shape;
  bool rotates = true;
  for (size_t i = 0; i < n; ++i) {
    rotates = rotates && axes[i] == (first + i) % n;
    order.push_back(static_cast<int64_t>(axes[i]));
    shape.push_back(x.size(order.back()));
  }
  if (!rotates || first == 0) return x.permute(order).contiguous();
  int64_t rows = 1;
  for (size_t i = 0; i < first; ++i) rows *= x.size(static_cast<int64_t>(i));
  return curvature::detail::columns_as_rows(x.reshape({rows, -1})).view(shape);
}

std::vector<size_t> inverse(const std::vector<size_t>& axes) {
  std::vector<size_t> result(axes.size());
  for (size_t i = 0; i < axes.size(); ++i) result[axes[i]] = i;
  return result;
}

/// An estimator behind a change of the axes' order.
class ReorderedEstimator : public CovarianceEstimator {
 public:
  ReorderedEstimator(std::unique_ptr<CovarianceEstimator> inner, std::vector<size_t> axes)
      : inner_(std::move(inner)), axes_(std::move(axes)), back_(inverse(axes_)) {}

  at::Tensor step(const at::Tensor& gradient, Momentum& momentum) override {
    const at::Tensor direction = inner_->step(permuted(gradient, axes_), momentum);
    return direction.defined() ? permuted(direction, back_) : direction;
  }
  bool steps_at_start() const override { return inner_->steps_at_start(); }
  at::Tensor to_parameter(const at::Tensor& x) const override {
    return permuted(inner_->to_parameter(x), back_);
  }
  OperatorPtr snapshot() const override { return inner_->snapshot(); }
  void visit(StateVisitor& visitor) override { inner_->visit(visitor); }
  int64_t state_bytes() const override { return inner_->state_bytes(); }

 private:
  std::unique_ptr<CovarianceEstimator> inner_;
  std::vector<size_t> axes_, back_;
};

}  // namespace

EstimatorFactory with_long_axes_last(EstimatorFactory inner) {
  return [inner =
              std::move(inner)](const ParameterView& view) -> std::unique_ptr<CovarianceEstimator> {
    if (view.shape.size() < 3) return inner(view);
    ParameterView reordered = view;
    reordered.axes = long_axes_last(view.shape);
    if (std::ranges::is_sorted(reordered.axes)) return inner(view);
    for (size_t i = 0; i < view.shape.size(); ++i) {
      reordered.shape[i] = view.shape[reordered.axes[i]];
      reordered.modes[i] = view.modes[reordered.axes[i]];
    }
    return std::make_unique<ReorderedEstimator>(inner(reordered), reordered.axes);
  };
}

std::vector<at::Tensor> in_parameter_order(const ParameterView& view,
                                           const std::vector<at::Tensor>& items) {
  std::vector<at::Tensor> result = items;
  for (size_t i = 0; i < view.axes.size(); ++i) result[view.axes[i]] = items[i];
  return result;
}

at::Tensor in_parameter_order(const ParameterView& view, const at::Tensor& x) {
  return view.axes.empty() ? x : permuted(x, inverse(view.axes));
}

}  // namespace curvature::optim
