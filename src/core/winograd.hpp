#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

/// Convolutions with kernels of 3 x 3 at every position, by minimal filtering F(2 x 2, 3 x 3)
/// (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4.1): tile by
/// tile of 2 x 2 outputs and the 4 x 4 inputs below them,
///   Y = A^T [sum_c (G w_c G^T) o (B^T x_c B)] A,
/// which are 16 products of matrices with 16 multiplications where a convolution has 36. B and A
/// hold 0, 1 and -1, G halves, so that the rounding is about that of the convolution itself. One
/// entry that is not finite spoils its whole tile.
namespace curvature::detail {

/// What a convolution is called with beside its tensors: for both axes of an image, or one number
/// for the two, as paddings below.
struct ConvolutionShape {
  at::IntArrayRef stride, padding, dilation;
  bool transposed;
  int64_t groups;
};

/// Whether the functions below take a convolution of `input` `[N, C, H, W]` with `weight`
/// `[O, C, 3, 3]` and `bias` `[O]`, and are faster than oneDNN: contiguous float32 on a CPU with
/// many channels. For what does not fit together: no.
bool is_for_winograd(const at::Tensor& input, const at::Tensor& weight,
                     const std::optional<at::Tensor>& bias, const ConvolutionShape& shape);

/// `[N, O, H + 2 p - 2, W + 2 p - 2]`.
std::array<int64_t, 4> winograd_output_shape(const at::Tensor& input, const at::Tensor& weight,
                                             at::IntArrayRef padding);

struct ConvolutionTerm {
  at::Tensor input, weight;
};

/// The sum of the terms' convolutions, all of the same shapes, plus the bias `[O]`.
at::Tensor winograd_convolution(const std::vector<ConvolutionTerm>& terms,
                                const std::optional<at::Tensor>& bias, at::IntArrayRef padding);
/// The gradient with respect to the input, `[N, C, H, W]`, from that of the output.
at::Tensor winograd_input_gradient(const at::Tensor& output_gradient, const at::Tensor& weight,
                                   at::IntArrayRef padding);
/// The gradient with respect to the weight, `[O, C, 3, 3]`.
at::Tensor winograd_weight_gradient(const at::Tensor& output_gradient, const at::Tensor& input,
                                    at::IntArrayRef padding);

}  // namespace curvature::detail
