#pragma once

#include "layerwise/convolution.hpp"

namespace curvature::detail {

/// sum over examples and pixels o of x_c[o] x_c2[o + s d], d being the convolution's dilation, for
/// distances -K < s < K on each axis, of x `[N, C, ...]` with 1 to 3 axes, in the cheaper of two
/// ways: contiguous `[C, C, K, 2 K - 1...]`. On the first axis the distances from zero on are
/// enough: c and c2 at s see what c2 and c see at -s.
at::Tensor autocorrelation(const at::Tensor& x, const Convolution& convolution);

/// As the gradient of a convolution's weight: a product of channels for each distance and pixel.
at::Tensor autocorrelation_by_convolution(const at::Tensor& x, const Convolution& convolution);
/// In frequencies (Wiener and Khinchin): a product of channels for each of about half as many
/// frequencies as there are pixels, whatever the number of distances, and products with the
/// matrices of short discrete Fourier transforms.
at::Tensor autocorrelation_by_fourier(const at::Tensor& x, const Convolution& convolution);

/// Multiply-adds of the cheaper way, weighted by how fast they are, for x of this shape.
double autocorrelation_cost(const Shape& shape, const Convolution& convolution);

}  // namespace curvature::detail
