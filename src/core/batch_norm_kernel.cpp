#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/batch_norm_native.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <curvature/core/space.hpp>

#include "core/fast_kernels.hpp"
#include "core/kernels.hpp"

namespace curvature::detail {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::Variable;
using torch::autograd::variable_list;

/// A vector over channels, shaped to be multiplied with `x`.
at::Tensor over_channels(const at::Tensor& vector, const at::Tensor& x) {
  Shape shape(static_cast<size_t>(x.dim()), 1);
  shape[1] = -1;
  return vector.view(shape);
}

at::Tensor affine(const at::Tensor& x, const at::Tensor& scale, const at::Tensor& shift,
                  const at::Tensor& mean, const at::Tensor& variance, double epsilon) {
  return at::batch_norm(x, scale, shift, mean, variance, /*training=*/false, /*momentum=*/0,
                        epsilon, /*cudnn_enabled=*/false);
}

/// With y = w z + b, z = (x - mean) r, r = (variance + epsilon)^-1/2, one value of w, b, r for each
/// channel: (g, x, w) -> (g w r, sum g z, sum g), sums over all but the channels.
struct Backward : Function<Backward> {
  static variable_list forward(AutogradContext* context, const Variable& g, const Variable& x,
                               const Variable& w, const at::Tensor& mean,
                               const at::Tensor& variance, double epsilon) {
    context->set_materialize_grads(false);
    context->save_for_backward({g, x, w, mean, variance});
    context->saved_data["epsilon"] = epsilon;
    auto [of_x, of_w, of_b] =
        at::native_batch_norm_backward(g, x, w, mean, variance, {}, {}, /*train=*/false, epsilon,
                                       /*output_mask=*/{true, true, true});
    return {of_x, of_w, of_b};
  }

  /// For directions (u, s, t) of the three results: (u w r + z s + t, g s r, sum u g r).
  static variable_list backward(AutogradContext* context, variable_list directions) {
    const variable_list saved = context->get_saved_variables();
    const at::Tensor &g = saved[0], &x = saved[1], &w = saved[2], &mean = saved[3],
                     &variance = saved[4];
    const double epsilon = context->saved_data["epsilon"].toDouble();
    const at::Tensor &u = directions[0], &s = directions[1], &t = directions[2];
    const at::Tensor r = (variance + epsilon).rsqrt();
    variable_list result(6);
    if (context->needs_input_grad(0)) {
      const auto or_zeros = [&](const at::Tensor& a) {
        return a.defined() ? a : at::zeros_like(w);
      };
      if (s.defined() || t.defined()) {
        result[0] = affine(x, or_zeros(s), or_zeros(t), mean, variance, epsilon);
      }
      if (u.defined()) {
        const at::Tensor scale = over_channels(w * r, x);
        result[0] = result[0].defined() ? result[0].addcmul_(u, scale) : u * scale;
      }
    }
    if (context->needs_input_grad(1) && s.defined()) result[1] = g * over_channels(s * r, g);
    if (context->needs_input_grad(2) && u.defined()) {
      result[2] = std::get<1>(
          at::native_batch_norm_backward(g, u, w, at::zeros_like(mean), variance, {}, {},
                                         /*train=*/false, epsilon, {false, true, false}));
    }
    return result;
  }
};

struct Forward : Function<Forward> {
  static Variable forward(AutogradContext* context, const Variable& x, const Variable& w,
                          const Variable& b, const at::Tensor& mean, const at::Tensor& variance,
                          double epsilon) {
    context->save_for_backward({x, w, mean, variance});
    context->saved_data["epsilon"] = epsilon;
    return affine(x, w, b, mean, variance, epsilon);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const variable_list saved = context->get_saved_variables();
    variable_list results = Backward::apply(gradients[0], saved[0], saved[1], saved[2], saved[3],
                                            context->saved_data["epsilon"].toDouble());
    results.resize(6);
    return results;
  }
};

}  // namespace

at::Tensor batch_norm_kernel(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                             const std::optional<at::Tensor>& bias,
                             const std::optional<at::Tensor>& mean,
                             const std::optional<at::Tensor>& variance, bool training,
                             double momentum, double epsilon, bool cudnn) {
  const bool is_affine = is_defined(weight) && is_defined(bias) && is_defined(mean) &&
                         is_defined(variance) && !training;
  const bool one_dtype = is_affine && weight->scalar_type() == input.scalar_type() &&
                         mean->scalar_type() == input.scalar_type();
  const bool is_differentiated = at::GradMode::is_enabled() && input.numel() > 0;
  if (FastKernels::on() && one_dtype && is_differentiated && !mean->requires_grad()) {
    return Forward::apply(input, *weight, *bias, *mean, *variance, epsilon);
  }
  return at::native::batch_norm(input, weight, bias, mean, variance, training, momentum, epsilon,
                                cudnn);
}

}  // namespace curvature::detail
