#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_convolution.h>
#include <ATen/ops/_convolution_double_backward_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/core/space.hpp>

#include "core/fast_kernels.hpp"
#include "core/kernels.hpp"
#include "core/winograd.hpp"

namespace curvature::detail {
namespace {

/// Whether `FastKernels` lives and a convolution goes by tiles.
bool is_ours(const at::Tensor& input, const at::Tensor& weight,
             const std::optional<at::Tensor>& bias, c10::SymIntArrayRef stride,
             c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
             const c10::SymInt& groups) {
  if (!FastKernels::on()) return false;
  const auto strides = c10::asIntArrayRefSlowOpt(stride);
  const auto paddings = c10::asIntArrayRefSlowOpt(padding);
  const auto dilations = c10::asIntArrayRefSlowOpt(dilation);
  const auto count = groups.maybe_as_int();
  return strides && paddings && dilations && count &&
         is_for_winograd(input, weight, bias,
                         {*strides, *paddings, *dilations, transposed, *count});
}

/// Gradients with respect to input, weight and bias.
std::tuple<at::Tensor, at::Tensor, at::Tensor> winograd_gradients(const at::Tensor& output_gradient,
                                                                  const at::Tensor& input,
                                                                  const at::Tensor& weight,
                                                                  at::IntArrayRef padding,
                                                                  std::array<bool, 3> wanted) {
  const at::Tensor gradient = output_gradient.contiguous();
  return {wanted[0] ? winograd_input_gradient(gradient, weight, padding) : at::Tensor(),
          wanted[1] ? winograd_weight_gradient(gradient, input, padding) : at::Tensor(),
          wanted[2] ? gradient.sum({0, 2, 3}) : at::Tensor()};
}

/// Whether a gradient is of the convolution's output, or else for LibTorch to complain about.
bool fits(const at::Tensor& output_gradient, const at::Tensor& input, const at::Tensor& weight,
          c10::SymIntArrayRef padding) {
  return output_gradient.is_cpu() && output_gradient.scalar_type() == at::kFloat &&
         output_gradient.sizes().equals(
             winograd_output_shape(input, weight, c10::asIntArrayRefUnchecked(padding)));
}

}  // namespace

at::Tensor convolution_kernel(c10::DispatchKeySet keys, const at::Tensor& input,
                              const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                              c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
                              c10::SymIntArrayRef dilation, bool transposed,
                              c10::SymIntArrayRef output_padding, c10::SymInt groups,
                              bool benchmark, bool deterministic, bool cudnn, bool tf32) {
  if (is_ours(input, weight, bias, stride, padding, dilation, transposed, groups)) {
    return winograd_convolution({{input, weight}}, bias, c10::asIntArrayRefUnchecked(padding));
  }
  return at::_ops::_convolution::redispatch(after_ours(keys), input, weight, bias, stride, padding,
                                            dilation, transposed, output_padding, std::move(groups),
                                            benchmark, deterministic, cudnn, tf32);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward_kernel(
    c10::DispatchKeySet keys, const at::Tensor& output_gradient, const at::Tensor& input,
    const at::Tensor& weight, at::OptionalSymIntArrayRef bias_sizes, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
    c10::SymIntArrayRef output_padding, c10::SymInt groups, std::array<bool, 3> wanted) {
  if (is_zero_product(output_gradient)) {
    return {
        wanted[0] ? at::zeros_like(input) : at::Tensor(),
        wanted[1] ? at::zeros_like(weight) : at::Tensor(),
        wanted[2] ? at::zeros({output_gradient.size(1)}, output_gradient.options()) : at::Tensor()};
  }
  if (is_ours(input, weight, std::nullopt, stride, padding, dilation, transposed, groups) &&
      fits(output_gradient, input, weight, padding)) {
    return winograd_gradients(output_gradient, input, weight, c10::asIntArrayRefUnchecked(padding),
                              wanted);
  }
  return at::_ops::convolution_backward::redispatch(
      after_ours(keys), output_gradient, input, weight, bias_sizes, stride, padding, dilation,
      transposed, output_padding, std::move(groups), wanted);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_double_backward_kernel(
    const std::optional<at::Tensor>& input_direction,
    const std::optional<at::Tensor>& weight_direction,
    const std::optional<at::Tensor>& bias_direction, const at::Tensor& output_gradient,
    const at::Tensor& weight, const at::Tensor& input, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
    at::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> wanted) {
  if (!FastKernels::on() || at::GradMode::is_enabled()) {
    return at::native::_convolution_double_backward(
        input_direction, weight_direction, bias_direction, output_gradient, weight, input, stride,
        padding, dilation, transposed, output_padding, groups, wanted);
  }
  const auto convolve = [&](const at::Tensor& x, const at::Tensor& w,
                            const std::optional<at::Tensor>& bias) {
    return at::convolution(x, w, bias, stride, padding, dilation, transposed, output_padding,
                           groups);
  };
  const auto gradients = [&](const at::Tensor& x, const at::Tensor& w, std::array<bool, 3> mask) {
    return at::convolution_backward(output_gradient, x, w, at::OptionalIntArrayRef(), stride,
                                    padding, dilation, transposed, output_padding, groups, mask);
  };
  const auto is_for_tiles = [&](const std::optional<at::Tensor>& x,
                                const std::optional<at::Tensor>& w) {
    return is_defined(x) && is_defined(w) &&
           is_for_winograd(*x, *w, bias_direction, {stride, padding, dilation, transposed, groups});
  };
  at::Tensor of_output_gradient, of_input, of_weight;
  if (wanted[0] && is_for_tiles(input, weight_direction) && is_for_tiles(input_direction, weight)) {
    of_output_gradient = winograd_convolution(
        {{input, *weight_direction}, {*input_direction, weight}}, bias_direction, padding);
  } else if (wanted[0]) {
    // d/dg <directions, gradients(g)>: the convolution's own directional derivative
    if (is_defined(weight_direction)) {
      of_output_gradient = convolve(input, *weight_direction, bias_direction);
    } else if (is_defined(bias_direction)) {
      Shape shape(static_cast<size_t>(output_gradient.dim()), 1);
      shape[1] = -1;
      of_output_gradient = bias_direction->view(shape).expand_as(output_gradient);
    }
    if (is_defined(input_direction)) {
      const at::Tensor part = convolve(*input_direction, weight, std::nullopt);
      of_output_gradient = of_output_gradient.defined() ? of_output_gradient + part : part;
    }
  }
  if (wanted[1] && is_defined(weight_direction)) {
    of_input = std::get<0>(gradients(input, *weight_direction, {true, false, false}));
  }
  if (wanted[2] && is_defined(input_direction)) {
    of_weight = std::get<1>(gradients(*input_direction, weight, {false, true, false}));
  }
  return {of_output_gradient, of_input, of_weight};
}

}  // namespace curvature::detail
