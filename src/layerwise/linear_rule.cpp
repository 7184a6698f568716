#include "core/check.hpp"
#include "layerwise/layer_part.hpp"

namespace curvature::detail {
namespace {

/// Slots of `input W^T + b` among the arguments.
struct Slots {
  size_t input;
  size_t weight;
  std::optional<size_t> bias;
  bool weight_is_transposed;  ///< the operation gets W^T
};

std::optional<Slots> slots_of(const OperationUse& use) {
  if (use.name == "aten::linear") return Slots{0, 1, 2, false};
  if (use.name == "aten::addmm") return Slots{1, 2, 0, true};
  return std::nullopt;
}

/// beta and alpha of addmm.
bool is_plain_sum(const OperationUse& use) {
  return use.name != "aten::addmm" || (use.arguments[3].toScalar().toDouble() == 1 &&
                                       use.arguments[4].toScalar().toDouble() == 1);
}

}  // namespace

/// y = x W^T + b with any leading axes.
MatchedUse linear_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples) {
  const auto slots = slots_of(*use);
  if (!slots) return {};
  const ParameterArgument* weight = use->parameter_at(slots->weight);
  const ParameterArgument* bias = slots->bias ? use->parameter_at(*slots->bias) : nullptr;
  const bool has_other_parameters =
      use->parameters.size() != static_cast<size_t>(weight != nullptr) + (bias != nullptr);
  if (has_other_parameters || !is_plain_sum(*use)) {
    return {.parts = {}, .reason = fmt::format("{} uses a parameter as its input", use->name)};
  }
  LayerPart part{.kind = "linear", .weight = std::nullopt, .bias = std::nullopt, .gradients = {}};
  if (weight != nullptr) {
    // A weight [n, m] that is used as it is makes the layer x W: its matrix is the transpose.
    const bool plain = weight->is_whole || weight->is_transposed;
    if (!plain) return {.parts = {}, .reason = "a part of a parameter is used"};
    if (weight->view.dim() != 2) return {.parts = {}, .reason = "its weight is not a matrix"};
    part.weight = weight->parameter;
    part.layout.transposed = weight->is_transposed != slots->weight_is_transposed;
    const at::Tensor input = use->tensor(slots->input).detach();
    const auto rows = rows_of_examples(input, examples);
    if (!rows) return {.parts = {}, .reason = "its input has no axis for the examples"};
    part.inputs = [rows = *rows] { return rows; };
    part.input_key = input_key_of(use->tensor(slots->input));
    part.reads = slots->input;
    part.takes_bias = bias == nullptr;
  } else if (!rows_of_examples(use->tensor(slots->input).detach(), examples)) {
    return {.parts = {}, .reason = "its input has no axis for the examples"};
  }
  if (bias != nullptr) {
    if (!bias->is_whole || bias->view.dim() != 1) {
      return {.parts = {}, .reason = "its bias is not a vector"};
    }
    part.bias = bias->parameter;
  }
  part.gradients = [examples](const at::Tensor& g) { return *rows_of_examples(g, examples); };
  return {.parts = {part}, .reason = {}};
}

}  // namespace curvature::detail
