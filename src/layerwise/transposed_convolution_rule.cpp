#include <utility>

#include <ATen/ops/zeros.h>

#include "layerwise/convolution.hpp"
#include "layerwise/window_moment.hpp"

namespace curvature::detail {
namespace {

Shape spread_shape(const at::Tensor& x, const Shape& stride) {
  Shape shape = x.sizes().slice(0, 2).vec();
  for (size_t i = 0; i < stride.size(); ++i) {
    shape.push_back((x.size(static_cast<int64_t>(i) + 2) - 1) * stride[i] + 1);
  }
  return shape;
}

/// The input with stride - 1 zeros between its pixels.
at::Tensor spread(const at::Tensor& x, const Shape& stride) {
  const Shape shape = spread_shape(x, stride);
  at::Tensor result = at::zeros(shape, x.options());
  at::Tensor pixels = result;
  for (size_t i = 0; i < stride.size(); ++i) {
    pixels = pixels.slice(static_cast<int64_t>(i) + 2, 0, shape[i + 2], stride[i]);
  }
  pixels.copy_(x);
  return result;
}

/// What a convolution with stride 1 of the spread input reads, which has the same outputs.
Convolution convolution_of_spread(const Convolution& transposed, const Shape& output_padding) {
  Convolution plain = transposed;
  plain.stride = Shape(transposed.axes(), 1);
  for (size_t i = 0; i < transposed.axes(); ++i) {
    plain.padding_begin[i] = transposed.reach(i) - transposed.padding_begin[i];
    plain.padding_end[i] = plain.padding_begin[i] + output_padding[i];
  }
  return plain;
}

}  // namespace

/// The transpose of a convolution, as a convolution of the spread input with the flipped kernel.
/// Positions are output pixels, inputs are what each sees, flipped back to the order of the kernel.
/// The weight is `[inputs, outputs / groups, kernel...]`; each group is a layer of its own.
MatchedUse transposed_convolution_rule(const std::shared_ptr<const OperationUse>& use,
                                       ExampleAxis examples) {
  const bool plain = use->name == "aten::conv_transpose1d" ||
                     use->name == "aten::conv_transpose2d" || use->name == "aten::conv_transpose3d";
  const bool general = use->name == "aten::convolution" || use->name == "aten::_convolution";
  const auto& arguments = use->arguments;
  if ((!plain && !general) || (general && !arguments[6].toBool())) return {};
  const at::Tensor& kernel = use->tensor(1);
  Convolution transposed{.kernel = kernel.sizes().slice(2).vec()};
  const size_t axes = transposed.axes();
  transposed.stride = expand(arguments[3].toIntVector(), axes);
  transposed.padding_begin = expand(arguments[4].toIntVector(), axes);
  const Shape output_padding = expand(arguments[general ? 7 : 5].toIntVector(), axes);
  transposed.groups = arguments[general ? 8 : 6].toInt();
  transposed.dilation = expand(arguments[general ? 5 : 7].toIntVector(), axes);
  transposed.padding_end = transposed.padding_begin;
  const at::Tensor input = with_batch_axis(use->tensor(0).detach(), axes);
  std::string reason = refuse_convolution(*use, input, examples);
  if (!reason.empty()) return {.parts = {}, .reason = std::move(reason)};

  const Convolution of_spread = convolution_of_spread(transposed, output_padding);
  Shape kernel_axes;
  for (size_t i = 0; i < axes; ++i) kernel_axes.push_back(static_cast<int64_t>(2 + i));
  return parts_of_groups(
      use, input, "transposed convolution", {.groups = transposed.groups, .transposed = true},
      kernel.size(1), examples, [=](const at::Tensor& x, LayerPart& part) {
        part.inputs = [=] {
          const at::Tensor padded =
              pad(spread(x, transposed.stride), of_spread.padding_begin, of_spread.padding_end);
          return window_rows(windows(padded, of_spread).flip(kernel_axes), examples);
        };
        if (!x.is_cpu()) return;
        Convolution flipped = of_spread;
        std::swap(flipped.padding_begin, flipped.padding_end);
        use_window_moment({.pixels = [=] { return spread(x, transposed.stride).flip(kernel_axes); },
                           .shape = spread_shape(x, transposed.stride),
                           .convolution = flipped},
                          part);
      });
}

}  // namespace curvature::detail
