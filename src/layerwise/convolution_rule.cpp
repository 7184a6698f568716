#include "core/check.hpp"
#include "layerwise/convolution.hpp"
#include "layerwise/window_moment.hpp"

namespace curvature::detail {
namespace {

/// `same` padding puts what is odd at the end.
void set_padding(const c10::IValue& padding, Convolution& convolution) {
  if (!padding.isString()) {
    convolution.padding_begin = expand(padding.toIntVector(), convolution.axes());
    convolution.padding_end = convolution.padding_begin;
    return;
  }
  const bool same = padding.toStringRef() == "same";
  for (size_t i = 0; i < convolution.axes(); ++i) {
    const int64_t total = same ? convolution.reach(i) : 0;
    convolution.padding_begin.push_back(total / 2);
    convolution.padding_end.push_back(total - total / 2);
  }
}

/// Entry k of the kernel reads pixel s t + k d - p for output pixel t.
std::vector<TapAxis> taps_of(const Convolution& convolution, const at::Tensor& input) {
  std::vector<TapAxis> axes;
  for (size_t i = 0; i < convolution.axes(); ++i) {
    const int64_t stride = convolution.stride[i];
    const int64_t padded = input.size(static_cast<int64_t>(i) + 2) + convolution.padding_begin[i] +
                           convolution.padding_end[i];
    const int64_t outputs = (padded - convolution.reach(i) - 1) / stride + 1;
    TapAxis axis{.step = stride, .taps = {}};
    for (int64_t k = 0; k < convolution.kernel[i]; ++k) {
      const int64_t first = k * convolution.dilation[i] - convolution.padding_begin[i];
      const int64_t begin = floor_divide(first, stride);
      axis.taps.push_back({.component = first - begin * stride,
                           .begin = begin,
                           .end = begin + outputs,
                           .phase = 0});
    }
    axis.positions = outputs;
    axes.push_back(std::move(axis));
  }
  return axes;
}

}  // namespace

/// Cross-correlation with zero padding; other padding modes pad before. Positions are output
/// pixels, inputs are patches; each group is a layer of its own.
MatchedUse convolution_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples) {
  const bool plain =
      use->name == "aten::conv1d" || use->name == "aten::conv2d" || use->name == "aten::conv3d";
  const bool general = use->name == "aten::convolution" || use->name == "aten::_convolution";
  const auto& arguments = use->arguments;
  if ((!plain && !general) || (general && arguments[6].toBool())) return {};
  const at::Tensor& kernel = use->tensor(1);
  Convolution convolution{.kernel = kernel.sizes().slice(2).vec()};
  const size_t axes = convolution.axes();
  convolution.stride = expand(arguments[3].toIntVector(), axes);
  convolution.dilation = expand(arguments[5].toIntVector(), axes);
  convolution.groups = arguments[general ? 8 : 6].toInt();
  set_padding(arguments[4], convolution);
  const at::Tensor input = with_batch_axis(use->tensor(0).detach(), axes);
  std::string reason = refuse_convolution(*use, input, examples);
  if (!reason.empty()) return {.parts = {}, .reason = std::move(reason)};

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
    if (const ParameterArgument* weight = use->parameter_at(1)) {
      part.weight = weight->parameter;
      const at::Tensor x = input.narrow(1, group * channels, channels);
      part.inputs = [=] {
        const at::Tensor padded = pad(x, convolution.padding_begin, convolution.padding_end);
        return window_rows(windows(padded, convolution), examples);
      };
      use_window_moment(x, taps_of(convolution, x), part);
    }
    if (const ParameterArgument* bias = use->parameter_at(2)) part.bias = bias->parameter;
    part.gradients = [=](const at::Tensor& g) {
      const at::Tensor batched = with_batch_axis(g, axes);
      return *channel_rows_of_examples(batched.narrow(1, group * outputs, outputs), examples);
    };
    matched.parts.push_back(std::move(part));
  }
  return matched;
}

}  // namespace curvature::detail
