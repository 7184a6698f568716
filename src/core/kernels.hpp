#pragma once

#include <array>
#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>

/// Kernels that stand in for LibTorch's, with its signatures, while `FastKernels` lives.
namespace curvature::detail {

/// Whether an optional argument of a kernel was given.
inline bool is_defined(const std::optional<at::Tensor>& tensor) {
  return tensor && tensor->defined();
}

/// Products of large float32 matrices by oneDNN, caught below autograd: graphs are the usual ones.
at::Tensor mm_kernel(c10::DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b);
at::Tensor addmm_kernel(c10::DispatchKeySet keys, const at::Tensor& input, const at::Tensor& a,
                        const at::Tensor& b, const at::Scalar& beta, const at::Scalar& alpha);

/// The three derivatives of (input, weight, output gradient) -> gradients of a convolution, of
/// which LibTorch computes all whatever is asked for: a product with the Jacobian of a network
/// needs the first alone, two convolutions instead of four.
std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_double_backward_kernel(
    const std::optional<at::Tensor>& input_direction,
    const std::optional<at::Tensor>& weight_direction,
    const std::optional<at::Tensor>& bias_direction, const at::Tensor& output_gradient,
    const at::Tensor& weight, const at::Tensor& input, at::IntArrayRef stride,
    at::IntArrayRef padding, at::IntArrayRef dilation, bool transposed,
    at::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> wanted);

/// Batch normalisation with fixed statistics: an affine function of each channel, whose second
/// derivatives take two passes over memory instead of a dozen.
at::Tensor batch_norm_kernel(const at::Tensor& input, const std::optional<at::Tensor>& weight,
                             const std::optional<at::Tensor>& bias,
                             const std::optional<at::Tensor>& mean,
                             const std::optional<at::Tensor>& variance, bool training,
                             double momentum, double epsilon, bool cudnn);

}  // namespace curvature::detail
