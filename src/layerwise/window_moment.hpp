#pragma once

#include <functional>

#include "layerwise/convolution.hpp"

namespace curvature::detail {

/// What a convolution of stride 1 reads.
struct WindowedImage {
  std::function<at::Tensor()> pixels;  ///< `[N, C, ...]`, without padding; 1 to 3 axes
  Shape shape;                         ///< of them
  Convolution convolution;
};

/// Lets `part` find the second moment of the image's windows from its autocorrelation. If a window
/// were taken wherever it touches the image, entries k and k2 of two windows would see the
/// autocorrelation at distance k2 - k; the windows too many are those over the border, a few rows,
/// whose product is subtracted. With a 3 x 3 kernel that is about a third of the arithmetic of the
/// product of all windows, and with the autocorrelation from frequencies a tenth; windows are never
/// made. On the CPU, for the lower triangle of the moment.
void use_window_moment(const WindowedImage& image, LayerPart& part);

}  // namespace curvature::detail
