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

}  // namespace

/// Cross-correlation with zero padding; other padding modes pad before. Positions are output
/// pixels, inputs are patches; each group is a layer of its own.
MatchedUse convolution_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples) {
  const bool plain = use->name == "aten::conv1d" || use->name == "aten::conv2d" ||
                     use->name == "aten::conv3d" || use->name == "aten::_convolution_mode";
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

  const int64_t groups = convolution.groups;
  return parts_of_groups(
      use, input, "convolution", {.groups = groups}, kernel.size(0) / groups, examples,
      [=](const at::Tensor& x, LayerPart& part) {
        part.inputs = [=] {
          const at::Tensor padded = pad(x, convolution.padding_begin, convolution.padding_end);
          return window_rows(windows(padded, convolution), examples);
        };
        if (convolution.stride == Shape(axes, 1) && x.is_cpu()) {
          use_window_moment(
              {.pixels = [x] { return x; }, .shape = x.sizes().vec(), .convolution = convolution},
              part);
        }
      });
}

}  // namespace curvature::detail
