#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_convolution_double_backward_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>

#include <curvature/core/space.hpp>

#include "core/fast_kernels.hpp"
#include "core/kernels.hpp"

namespace curvature::detail {

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
  at::Tensor of_output_gradient, of_input, of_weight;
  if (wanted[0]) {  // d/dg <directions, gradients(g)>: the convolution's own directional derivative
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
