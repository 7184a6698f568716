#pragma once

#include <vector>

#include "layerwise/layer_part.hpp"

namespace curvature::detail {

/// What an entry of a kernel reads along one axis: for the i-th output, pixel begin + i of a
/// component of the image, zero where the image has none; up to pixel end - 1.
struct Tap {
  int64_t component;  ///< the pixels component, component + step, ... of the image
  int64_t begin, end;
  int64_t phase;  ///< no output sees entries of different phases
};

/// The entries of a kernel along one axis.
struct TapAxis {
  int64_t step = 1;       ///< between the pixels of a component
  int64_t positions = 1;  ///< output pixels
  std::vector<Tap> taps = {};
};

/// Lets `part` find the second moment of the windows of an image `x` `[N, C, ...]`, without
/// padding, by correlations of the image with itself, shifted; 1 to 3 axes. What two entries of a
/// kernel see depends on their distance alone, except for the border: so each distance is one
/// correlation of all channels, cut into the parts of the image that not all pairs of entries see.
/// Each part is computed once, and parts are only added. With a 3 x 3 kernel that is about a
/// sixth of the arithmetic of the product of the windows, which are never made.
void use_window_moment(const at::Tensor& x, const std::vector<TapAxis>& axes, LayerPart& part);

/// Rounded down, for positive b.
inline int64_t floor_divide(int64_t a, int64_t b) { return a / b - (a % b < 0 ? 1 : 0); }

}  // namespace curvature::detail
