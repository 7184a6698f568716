#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_softmax_backward_data.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/kernels.hpp"
#include "core/pieces.hpp"

namespace curvature::detail {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::Variable;
using torch::autograd::variable_list;

/// (g, y) -> y (g - sum g y), sums over the last dimension.
struct SoftmaxGradient : Function<SoftmaxGradient> {
  static Variable forward(AutogradContext* context, const Variable& g, const Variable& y) {
    context->save_for_backward({g, y});
    return at::_softmax_backward_data(g, y, -1, y.scalar_type());
  }

  /// For a direction u: (y (u - sum u y), u (g - sum g y) - g sum u y).
  static variable_list backward(AutogradContext* context, variable_list directions) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &u = directions[0], &g = saved[0], &y = saved[1];
    variable_list result(2);
    if (context->needs_input_grad(0)) {
      result[0] = at::_softmax_backward_data(u, y, -1, y.scalar_type());
    }
    if (context->needs_input_grad(1)) result[1] = of_output(u, g, y);
    return result;
  }

  static at::Tensor of_output(const at::Tensor& u, const at::Tensor& g, const at::Tensor& y) {
    const auto derivative = [](const at::Tensor& u_, const at::Tensor& g_, const at::Tensor& y_) {
      const auto sum = [](const at::Tensor& x) { return x.sum(-1, /*keepdim=*/true); };
      return u_ * (g_ - sum(g_ * y_)) - g_ * sum(u_ * y_);
    };
    if (at::GradMode::is_enabled()) return derivative(u, g, y);
    const int64_t width = y.size(-1);
    const at::Tensor result = at::empty_like(y, at::MemoryFormat::Contiguous);
    const at::Tensor rows = result.view({-1, width});
    const at::Tensor rows_u = u.reshape({-1, width}), rows_g = g.reshape({-1, width});
    const at::Tensor rows_y = y.reshape({-1, width});
    by_pieces(rows.size(0), width, [&](int64_t, int64_t begin, int64_t count) {
      rows.narrow(0, begin, count)
          .copy_(derivative(rows_u.narrow(0, begin, count), rows_g.narrow(0, begin, count),
                            rows_y.narrow(0, begin, count)));
    });
    return result;
  }
};

}  // namespace

at::Tensor softmax_backward_kernel(c10::DispatchKeySet keys, const at::Tensor& output_gradient,
                                   const at::Tensor& output, int64_t dim, at::ScalarType dtype) {
  const bool over_last = output.dim() > 0 && (dim == -1 || dim == output.dim() - 1);
  if (over_last && dtype == output.scalar_type() &&
      is_differentiated_by_ours(output_gradient, output)) {
    return SoftmaxGradient::apply(output_gradient, output);
  }
  return at::_ops::_softmax_backward_data::redispatch(by_libtorch(keys), output_gradient, output,
                                                      dim, dtype);
}

}  // namespace curvature::detail
