#include <ATen/TensorOperators.h>
#include <ATen/ops/batch_norm.h>
#include <ATen/ops/group_norm.h>
#include <ATen/ops/layer_norm.h>
#include <ATen/ops/rms_norm.h>

#include "layerwise/layer_part.hpp"

namespace curvature::detail {
namespace {

/// A normalisation followed by a scale and a shift, seen apart.
struct Normalization {
  std::string kind;
  size_t scale;
  std::optional<size_t> shift;
  bool channels_second;
  std::function<at::Tensor()> normalized;  ///< the input, without scale and shift
};

at::Tensor optional_tensor(const c10::IValue& value) {
  return value.isTensor() ? value.toTensor().detach() : at::Tensor();
}

std::optional<Normalization> normalization_of(const std::shared_ptr<const OperationUse>& use) {
  const auto& arguments = use->arguments;
  if (use->name == "aten::layer_norm") {
    return Normalization{"layer norm", 2, 3, false, [use, &arguments] {
                           return at::layer_norm(use->tensor(0).detach(),
                                                 arguments[1].toIntVector(), {}, {},
                                                 arguments[4].toDouble());
                         }};
  }
  if (use->name == "aten::rms_norm") {
    return Normalization{
        "RMS norm", 2, std::nullopt, false, [use, &arguments] {
          const std::optional<double> epsilon =
              arguments[3].isNone() ? std::nullopt : std::optional(arguments[3].toDouble());
          return at::rms_norm(use->tensor(0).detach(), arguments[1].toIntVector(), {}, epsilon);
        }};
  }
  if (use->name == "aten::group_norm") {
    return Normalization{"group norm", 2, 3, true, [use, &arguments] {
                           return at::group_norm(use->tensor(0).detach(), arguments[1].toInt(), {},
                                                 {}, arguments[4].toDouble());
                         }};
  }
  if (use->name == "aten::batch_norm" && !arguments[5].toBool()) {
    return Normalization{"batch norm", 1, 2, true, [use, &arguments] {
                           return at::batch_norm(use->tensor(0).detach(), {}, {},
                                                 optional_tensor(arguments[3]),
                                                 optional_tensor(arguments[4]), false, 0,
                                                 arguments[7].toDouble(), false);
                         }};
  }
  return std::nullopt;
}

}  // namespace

/// y = scale * normalised x + shift, entry by entry. Scale and shift are matrices with one column:
/// the gradient of the scale at a position is g * normalised x.
MatchedUse normalization_rule(const std::shared_ptr<const OperationUse>& use,
                              ExampleAxis examples) {
  const auto normalization = normalization_of(use);
  if (!normalization) return {};
  const ParameterArgument* scale = use->parameter_at(normalization->scale);
  const ParameterArgument* shift =
      normalization->shift ? use->parameter_at(*normalization->shift) : nullptr;
  const bool whole = (scale == nullptr || scale->is_whole) && (shift == nullptr || shift->is_whole);
  const bool others =
      use->parameters.size() != static_cast<size_t>(scale != nullptr) + (shift != nullptr);
  if (!whole || others) return {.parts = {}, .reason = "a parameter is normalised itself"};
  const at::Tensor& input = use->tensor(0);
  const int64_t size = (scale != nullptr ? scale : shift)->view.numel();
  const auto rows = [examples, size, second = normalization->channels_second](
                        const at::Tensor& x) -> std::optional<at::Tensor> {
    if (second) return channel_rows_of_examples(x, examples);
    const int64_t axes = x.dim();
    int64_t normalized = 1, first = axes;
    while (normalized < size && first > 0) normalized *= x.size(--first);
    return rows_of_examples(x.flatten(first == axes ? first - 1 : first), examples);
  };
  if (!rows(input.detach())) {
    return {.parts = {}, .reason = "its input has no axis for the examples"};
  }
  MatchedUse matched;
  if (scale != nullptr) {
    matched.parts.push_back(
        {.kind = normalization->kind,
         .weight = scale->parameter,
         .bias = std::nullopt,
         .gradients = [rows, normalized = normalization->normalized](
                          const at::Tensor& g) { return *rows(g) * *rows(normalized()); },
         .reads = 0});
  }
  if (shift != nullptr) {
    matched.parts.push_back({.kind = normalization->kind,
                             .weight = std::nullopt,
                             .bias = shift->parameter,
                             .gradients = [rows](const at::Tensor& g) { return *rows(g); }});
  }
  return matched;
}

}  // namespace curvature::detail
