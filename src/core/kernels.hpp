#pragma once

#include <array>
#include <optional>
#include <tuple>

#include <ATen/core/Tensor.h>
#include <c10/core/DispatchKeySet.h>

/// Kernels that stand in for LibTorch's, with its signatures, while `FastKernels` or `ZeroProducts`
/// lives.
namespace curvature::detail {

/// What comes after this library's kernels below autograd.
inline c10::DispatchKeySet after_ours(c10::DispatchKeySet keys) {
  return keys &
         c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::BackendSelect);
}

/// LibTorch's own derivative of an operation to which this library gives another one on the CPU: it
/// is the same on all backends, and stays in the table at the one that stands for "any other".
inline c10::DispatchKeySet by_libtorch(c10::DispatchKeySet keys) {
  return (keys - c10::DispatchKeySet(c10::DispatchKey::AutogradFunctionality)) |
         c10::DispatchKeySet(c10::DispatchKey::AutogradOther);
}

/// Whether a graph is built while `FastKernels` lives, of tensors that this library's derivatives
/// are for: as many float32 or float64 numbers, at least one, in the CPU's memory.
bool is_differentiated_by_ours(const at::Tensor& a, const at::Tensor& b);

/// Whether an optional argument of a kernel was given.
inline bool is_defined(const std::optional<at::Tensor>& tensor) {
  return tensor && tensor->defined();
}

/// Whether `ZeroProducts` lives and every entry is zero, in one pass over what is contiguous
/// float32 or float64 on the CPU, which ends at the first that is not; otherwise no.
bool is_zero_product(const at::Tensor& factor);

/// Products of large float32 matrices by oneDNN, caught below autograd: graphs are the usual ones.
at::Tensor mm_kernel(c10::DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b);
at::Tensor addmm_kernel(c10::DispatchKeySet keys, const at::Tensor& input, const at::Tensor& a,
                        const at::Tensor& b, const at::Scalar& beta, const at::Scalar& alpha);

/// Zeros for products with zeros, LibTorch's otherwise, below autograd too.
at::Tensor bmm_kernel(c10::DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b);

/// Convolutions (where `convolution` ends, and traced models begin) and their gradients, also below
/// autograd: by tiles where that is faster (`winograd.hpp`), zeros for gradients of zeros,
/// LibTorch's otherwise.
at::Tensor convolution_kernel(c10::DispatchKeySet keys, const at::Tensor& input,
                              const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                              c10::SymIntArrayRef stride, c10::SymIntArrayRef padding,
                              c10::SymIntArrayRef dilation, bool transposed,
                              c10::SymIntArrayRef output_padding, c10::SymInt groups,
                              bool benchmark, bool deterministic, bool cudnn, bool tf32);
std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward_kernel(
    c10::DispatchKeySet keys, const at::Tensor& output_gradient, const at::Tensor& input,
    const at::Tensor& weight, at::OptionalSymIntArrayRef bias_sizes, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
    c10::SymIntArrayRef output_padding, c10::SymInt groups, std::array<bool, 3> wanted);

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

/// A weight g v / |v| (`torch.nn.utils.weight_norm`): LibTorch's fused form has a wrong second
/// derivative on the CPU, so that it is put together from the operations here.
at::Tensor weight_norm_kernel(const at::Tensor& v, const at::Tensor& g, int64_t dim);
/// The gradient of the hard sigmoid, which LibTorch cannot differentiate.
at::Tensor hardsigmoid_backward_kernel(c10::DispatchKeySet keys, const at::Tensor& output_gradient,
                                       const at::Tensor& input);

/// Gradients of GELU, of layer normalisation and of the softmax, whose own derivatives LibTorch
/// takes in a dozen passes over memory: here piece by piece (`pieces.hpp`).
at::Tensor gelu_backward_kernel(c10::DispatchKeySet keys, const at::Tensor& output_gradient,
                                const at::Tensor& input, c10::string_view approximate);
std::tuple<at::Tensor, at::Tensor, at::Tensor> layer_norm_backward_kernel(
    c10::DispatchKeySet keys, const at::Tensor& output_gradient, const at::Tensor& input,
    c10::SymIntArrayRef shape, const at::Tensor& mean, const at::Tensor& scale,
    const std::optional<at::Tensor>& weight, const std::optional<at::Tensor>& bias,
    std::array<bool, 3> wanted);
at::Tensor softmax_backward_kernel(c10::DispatchKeySet keys, const at::Tensor& output_gradient,
                                   const at::Tensor& output, int64_t dim, at::ScalarType dtype);

}  // namespace curvature::detail
