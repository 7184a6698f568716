#include <cmath>
#include <numbers>
#include <string>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gelu_backward.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/rsub.h>
#include <torch/csrc/autograd/custom_function.h>

#include "core/kernels.hpp"
#include "core/pieces.hpp"

namespace curvature::detail {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::Variable;
using torch::autograd::variable_list;

/// d^2/dx^2 of x Phi(x): phi(x) (2 - x^2), Phi and phi the normal distribution and its density.
at::Tensor second_derivative(const at::Tensor& x) {
  const double log_scale = -0.5 * std::log(2 * std::numbers::pi);
  const at::Tensor squares = x.square();
  return at::rsub(squares, log_scale, 0.5).exp() * at::rsub(squares, 2);
}

/// d^2/dx^2 of x (1 + t) / 2, t = tanh(k (x + c x^3)): (1 - t^2) (s + 3 k c x^2 - x t s^2), where
/// s = k (1 + 3 c x^2).
at::Tensor second_derivative_by_tanh(const at::Tensor& x) {
  const double k = std::numbers::sqrt2 * std::numbers::inv_sqrtpi, c = 0.044715;
  const at::Tensor squares = x.square();
  const at::Tensor t = (x * (squares * (k * c) + k)).tanh();
  const at::Tensor cubic = squares * (3 * k * c), slope = cubic + k;
  return at::rsub(t.square(), 1) * (slope + cubic - x * t * slope.square());
}

/// (g, x) -> g gelu'(x).
struct GeluGradient : Function<GeluGradient> {
  static Variable forward(AutogradContext* context, const Variable& g, const Variable& x,
                          c10::string_view approximate) {
    context->save_for_backward({g, x});
    context->saved_data["approximate"] = std::string(approximate);
    return at::gelu_backward(g, x, approximate);
  }

  /// For a direction u: (u gelu'(x), u g gelu''(x)).
  static variable_list backward(AutogradContext* context, variable_list directions) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &u = directions[0], &g = saved[0], &x = saved[1];
    const std::string approximate = context->saved_data["approximate"].toStringRef();
    variable_list result(3);
    if (context->needs_input_grad(0)) result[0] = at::gelu_backward(u, x, approximate);
    if (context->needs_input_grad(1)) result[1] = of_input(u, g, x, approximate == "tanh");
    return result;
  }

  static at::Tensor of_input(const at::Tensor& u, const at::Tensor& g, const at::Tensor& x,
                             bool by_tanh) {
    const auto curvature = by_tanh ? second_derivative_by_tanh : second_derivative;
    if (at::GradMode::is_enabled()) return u * g * curvature(x);
    const at::Tensor result = at::empty_like(x, at::MemoryFormat::Contiguous);
    const at::Tensor flat_u = u.reshape(-1), flat_g = g.reshape(-1), flat_x = x.reshape(-1);
    const at::Tensor flat_result = result.view(-1);
    by_pieces(x.numel(), 1, [&](int64_t, int64_t begin, int64_t count) {
      at::Tensor piece = flat_result.narrow(0, begin, count);
      at::mul_out(piece, flat_u.narrow(0, begin, count), flat_g.narrow(0, begin, count));
      piece.mul_(curvature(flat_x.narrow(0, begin, count)));
    });
    return result;
  }
};

}  // namespace

at::Tensor gelu_backward_kernel(c10::DispatchKeySet keys, const at::Tensor& g, const at::Tensor& x,
                                c10::string_view approximate) {
  if (is_differentiated_by_ours(g, x)) return GeluGradient::apply(g, x, approximate);
  return at::_ops::gelu_backward::redispatch(by_libtorch(keys), g, x, approximate);
}

}  // namespace curvature::detail
