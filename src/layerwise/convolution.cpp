#include "layerwise/convolution.hpp"

#include <algorithm>

#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>

#include "core/check.hpp"

namespace curvature::detail {

Shape expand(Shape values, size_t count) {
  if (values.size() == 1) values.resize(count, values.front());
  return values;
}

std::string refuse_convolution(const OperationUse& use, const at::Tensor& batched_input,
                               ExampleAxis examples) {
  const ParameterArgument* weight = use.parameter_at(1);
  const ParameterArgument* bias = use.parameter_at(2);
  const bool whole = (weight == nullptr || weight->is_whole) && (bias == nullptr || bias->is_whole);
  const bool others =
      use.parameters.size() != static_cast<size_t>(weight != nullptr) + (bias != nullptr);
  if (!whole || others) return "a part of a parameter is used";
  if (examples.second || batched_input.size(0) % examples.count != 0) {
    return "its input has no axis for the examples";
  }
  return {};
}

MatchedUse parts_of_groups(
    const std::shared_ptr<const OperationUse>& use, const at::Tensor& batched_input,
    const std::string& kind, WeightLayout layout, int64_t outputs, ExampleAxis examples,
    const std::function<void(const at::Tensor& channels, LayerPart& part)>& add_inputs) {
  const auto axes = static_cast<size_t>(batched_input.dim() - 2);
  const int64_t channels = batched_input.size(1) / layout.groups;
  MatchedUse matched;
  for (int64_t group = 0; group < layout.groups; ++group) {
    LayerPart part{.kind = fmt::format("{} {}-d", kind, axes),
                   .weight = std::nullopt,
                   .bias = std::nullopt,
                   .layout = layout,
                   .group = group,
                   .gradients = {}};
    if (const ParameterArgument* weight = use->parameter_at(1)) {
      part.weight = weight->parameter;
      part.reads = 0;
      add_inputs(batched_input.narrow(1, group * channels, channels), part);
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

at::Tensor with_batch_axis(const at::Tensor& x, size_t axes) {
  return x.dim() == static_cast<int64_t>(axes) + 1 ? x.unsqueeze(0) : x;
}

at::Tensor pad(const at::Tensor& x, const Shape& begin, const Shape& end) {
  at::Tensor padded = x;
  Shape amounts;  // last axis first
  for (size_t i = begin.size(); i-- > 0;) {
    amounts.push_back(std::max<int64_t>(begin[i], 0));
    amounts.push_back(std::max<int64_t>(end[i], 0));
  }
  const bool grows = std::any_of(amounts.begin(), amounts.end(), [](int64_t a) { return a > 0; });
  if (grows) padded = at::constant_pad_nd(x, amounts, 0);  // it would copy for nothing
  for (size_t i = 0; i < begin.size(); ++i) {
    const int64_t first = std::max<int64_t>(-begin[i], 0), last = std::max<int64_t>(-end[i], 0);
    const int64_t axis = static_cast<int64_t>(i) + 2;
    padded = padded.narrow(axis, first, padded.size(axis) - first - last);
  }
  return padded;
}

at::Tensor windows(const at::Tensor& padded, const Convolution& convolution) {
  at::Tensor result = padded;
  const auto axes = static_cast<int64_t>(convolution.axes());
  for (int64_t i = 0; i < axes; ++i) {
    const auto j = static_cast<size_t>(i);
    const int64_t extent = convolution.reach(j) + 1;
    result = result.unfold(2 + i, extent, convolution.stride[j]);
    // The window is the last axis: keep every dilation-th entry.
    result = result.slice(-1, 0, extent, convolution.dilation[j]);
  }
  // [N, C, out..., kernel...] -> [N, C, kernel..., out...]
  Shape order = {0, 1};
  for (int64_t i = 0; i < axes; ++i) order.push_back(2 + axes + i);
  for (int64_t i = 0; i < axes; ++i) order.push_back(2 + i);
  return result.permute(order);
}

at::Tensor window_rows(const at::Tensor& windows, ExampleAxis examples) {
  const int64_t axes = windows.dim() / 2 - 1;
  const int64_t columns = c10::multiply_integers(windows.sizes().slice(1, 1 + axes));
  const int64_t positions = c10::multiply_integers(windows.sizes().slice(2 + axes));
  if (columns == windows.size(1)) {  // a kernel of one entry: perhaps no copy at all
    return windows.reshape({windows.size(0), columns, positions})
        .transpose(1, 2)
        .reshape({examples.count, -1, columns});
  }
  // Column by column: what is next to each other in the image stays so, and the product of the rows
  // with themselves wants it.
  at::Tensor transposed = at::empty({columns, windows.size(0), positions}, windows.options());
  Shape shape = windows.sizes().slice(1, 1 + axes).vec();
  shape.push_back(windows.size(0));
  for (int64_t i = 0; i < axes; ++i) shape.push_back(windows.size(2 + axes + i));
  transposed.view(shape).copy_(windows.movedim(0, 1 + axes));
  return transposed.view({columns, examples.count, -1}).permute({1, 2, 0});
}

}  // namespace curvature::detail
