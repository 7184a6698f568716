#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

/// Convolutions with kernels of 3 x 3 at every position, by minimal filtering F(m x m, 3 x 3)
/// (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016, section 4.1): tile by
/// tile of m x m outputs, m 2 or 4, and the (m + 2) x (m + 2) inputs below them,
///   Y = A^T [sum_c (G w_c G^T) o (B^T x_c B)] A,
/// which are products of matrices, 16 or 36 of them, with 4 or 2.25 multiplications for an output
/// where a convolution has 9. The rounding is about that of a convolution for m = 2, where B and A
/// hold 0, 1 and -1, and several times as much for m = 4: 8e-7 to 1.6e-6 of the norm with 64 to 512
/// channels. One entry that is not finite spoils its whole tile.
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
/// many channels and tiles (`TileGrid::pays`), and one thread. For what does not fit together: no.
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
