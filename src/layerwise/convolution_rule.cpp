#include <functional>
#include <numeric>

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/zeros.h>

#include "core/check.hpp"
#include "layerwise/layer_part.hpp"

namespace curvature::detail {
namespace {

/// A convolution over 1, 2 or 3 axes.
struct Convolution {
  Shape stride, padding, dilation;
  int64_t groups;
  Shape kernel;
};

Shape expand(Shape values, size_t count) {
  if (values.size() == 1) values.resize(count, values.front());
  return values;
}

/// `same` padding puts what is odd at the end.
Shape same_padding_end(const Convolution& convolution) {
  Shape end;
  for (size_t i = 0; i < convolution.kernel.size(); ++i) {
    const int64_t total = convolution.dilation[i] * (convolution.kernel[i] - 1);
    end.push_back(total - total / 2);
  }
  return end;
}

/// Input patches of one group, `[N, S, channels * kernel]`, channels slowest: the columns of the
/// weight's matrix. Any number of axes; `padded` is `[N, channels, ...]`.
at::Tensor patches(const at::Tensor& padded, const Convolution& convolution) {
  at::Tensor windows = padded;
  const auto axes = static_cast<int64_t>(convolution.kernel.size());
  for (int64_t i = 0; i < axes; ++i) {
    const auto j = static_cast<size_t>(i);
    const int64_t extent = convolution.dilation[j] * (convolution.kernel[j] - 1) + 1;
    windows = windows.unfold(2 + i, extent, convolution.stride[j]);
    // The window is the last axis: keep every dilation-th entry.
    windows = windows.slice(-1, 0, extent, convolution.dilation[j]);
  }
  // [N, C, out..., kernel...] -> [N, out..., C, kernel...]
  Shape order = {0};
  for (int64_t i = 0; i < axes; ++i) order.push_back(2 + i);
  order.push_back(1);
  for (int64_t i = 0; i < axes; ++i) order.push_back(2 + axes + i);
  const int64_t columns =
      padded.size(1) * std::accumulate(convolution.kernel.begin(), convolution.kernel.end(),
                                       int64_t{1}, std::multiplies<>());
  return windows.permute(order).reshape({padded.size(0), -1, columns});
}

at::Tensor pad(const at::Tensor& x, const Shape& begin, const Shape& end) {
  Shape amounts;  // last axis first
  for (size_t i = begin.size(); i-- > 0;) {
    amounts.push_back(begin[i]);
    amounts.push_back(end[i]);
  }
  return at::constant_pad_nd(x, amounts, 0);
}

}  // namespace

/// Cross-correlation with zero padding; other padding modes pad before. Positions are output
/// pixels, inputs are patches; each group is a layer of its own.
MatchedUse convolution_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples) {
  const bool plain =
      use->name == "aten::conv1d" || use->name == "aten::conv2d" || use->name == "aten::conv3d";
  const bool general = use->name == "aten::convolution" || use->name == "aten::_convolution";
  if (!plain && !general) return {};
  const auto& arguments = use->arguments;
  if (general && arguments[6].toBool()) {
    return {.parts = {}, .reason = "a transposed convolution has no rule"};
  }
  const ParameterArgument* weight = use->parameter_at(1);
  const ParameterArgument* bias = use->parameter_at(2);
  const bool whole = (weight == nullptr || weight->is_whole) && (bias == nullptr || bias->is_whole);
  const bool others =
      use->parameters.size() != static_cast<size_t>(weight != nullptr) + (bias != nullptr);
  if (!whole || others) return {.parts = {}, .reason = "a part of a parameter is used"};

  const at::Tensor& kernel = use->tensor(1);
  Convolution convolution;
  convolution.kernel = kernel.sizes().slice(2).vec();
  const size_t axes = convolution.kernel.size();
  convolution.stride = expand(arguments[3].toIntVector(), axes);
  convolution.dilation = expand(arguments[5].toIntVector(), axes);
  convolution.groups = arguments[general ? 8 : 6].toInt();
  Shape begin, end;
  if (arguments[4].isString()) {
    const bool same = arguments[4].toStringRef() == "same";
    end = same ? same_padding_end(convolution) : Shape(axes, 0);
    for (size_t i = 0; i < axes; ++i) {
      begin.push_back(same ? convolution.dilation[i] * (convolution.kernel[i] - 1) / 2 : 0);
    }
  } else {
    begin = end = expand(arguments[4].toIntVector(), axes);
  }
  at::Tensor input = use->tensor(0).detach();
  if (input.dim() == static_cast<int64_t>(axes) + 1) input = input.unsqueeze(0);  // no batch axis
  if (examples.second || input.size(0) % examples.count != 0) {
    return {.parts = {}, .reason = "its input has no axis for the examples"};
  }

  MatchedUse matched;
  const int64_t groups = convolution.groups;
  const int64_t channels = input.size(1) / groups, outputs = kernel.size(0) / groups;
  for (int64_t group = 0; group < groups; ++group) {
    LayerPart part{.kind = fmt::format("convolution {}-d", axes),
                   .weight = std::nullopt,
                   .bias = std::nullopt,
                   .layout = {.groups = groups},
                   .group = group,
                   .gradients = {}};
    if (weight != nullptr) {
      part.weight = weight->parameter;
      part.inputs = [=] {
        const at::Tensor x = pad(input.narrow(1, group * channels, channels), begin, end);
        const at::Tensor rows = patches(x, convolution);
        return rows.reshape({examples.count, -1, rows.size(2)});
      };
    }
    if (bias != nullptr) part.bias = bias->parameter;
    part.gradients = [=](const at::Tensor& g) {
      const at::Tensor batched = g.dim() == static_cast<int64_t>(axes) + 1 ? g.unsqueeze(0) : g;
      return *channel_rows_of_examples(batched.narrow(1, group * outputs, outputs), examples);
    };
    matched.parts.push_back(std::move(part));
  }
  return matched;
}

}  // namespace curvature::detail
