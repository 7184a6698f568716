#pragma once

#include <functional>
#include <memory>
#include <string>

#include "layerwise/layer_part.hpp"

namespace curvature::detail {

/// The arguments of a convolution over 1, 2 or 3 axes.
struct Convolution {
  Shape kernel = {}, stride = {}, padding_begin = {}, padding_end = {}, dilation = {};
  int64_t groups = 1;

  size_t axes() const { return kernel.size(); }
  /// Extent of the input that one output pixel sees, less one.
  int64_t reach(size_t axis) const { return dilation[axis] * (kernel[axis] - 1); }
};

/// One number stands for all axes.
Shape expand(Shape values, size_t count);

/// Why the parts of a use cannot be told (weight at 1, bias at 2); empty if they can.
std::string refuse_convolution(const OperationUse& use, const at::Tensor& batched_input,
                               ExampleAxis examples);

/// A part for each group of a use (weight at 1, bias at 2) with this many outputs each.
/// `add_inputs` tells a part with weight what it reads of the group's channels `[N, C / groups,
/// ...]`.
MatchedUse parts_of_groups(
    const std::shared_ptr<const OperationUse>& use, const at::Tensor& batched_input,
    const std::string& kind, WeightLayout layout, int64_t outputs, ExampleAxis examples,
    const std::function<void(const at::Tensor& channels, LayerPart& part)>& add_inputs);

/// The input `[N, C, ...]`, also if it came without the batch axis.
at::Tensor with_batch_axis(const at::Tensor& x, size_t axes);

/// Zeros around the axes after the first two; negative amounts cut off.
at::Tensor pad(const at::Tensor& x, const Shape& begin, const Shape& end);

/// What each output pixel sees of the padded input `[N, C, ...]`, as a view:
/// `[N, C, kernel..., out...]`.
at::Tensor windows(const at::Tensor& padded, const Convolution& convolution);

/// Windows as rows of examples `[N, S, C * kernel]`, channels slowest: the columns of the weight's
/// matrix.
at::Tensor window_rows(const at::Tensor& windows, ExampleAxis examples);

}  // namespace curvature::detail
