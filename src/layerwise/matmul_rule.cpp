#include "layerwise/layer_part.hpp"

namespace curvature::detail {

/// y = x P for a parameter P `[n, m]` (or its transpose) from the right, without bias.
MatchedUse matmul_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples) {
  if (use->name != "aten::matmul" && use->name != "aten::mm") return {};
  const ParameterArgument* weight = use->parameter_at(1);
  if (weight == nullptr || use->parameters.size() != 1) {
    return {.parts = {}, .reason = "a parameter multiplies from the left"};
  }
  if (!(weight->is_whole || weight->is_transposed) || weight->view.dim() != 2) {
    return {.parts = {}, .reason = "a part of a parameter is used"};
  }
  const auto rows = rows_of_examples(use->tensor(0).detach(), examples);
  if (!rows) return {.parts = {}, .reason = "its input has no axis for the examples"};
  LayerPart part{
      .kind = "matmul",
      .weight = weight->parameter,
      .bias = std::nullopt,
      .layout = {.groups = 1, .transposed = weight->is_whole},
      .inputs = [rows = *rows] { return rows; },
      .input_key = input_key_of(use->tensor(0)),
      .gradients = [examples](const at::Tensor& g) { return *rows_of_examples(g, examples); },
      .takes_bias = true,
      .reads = 0};
  return {.parts = {part}, .reason = {}};
}

}  // namespace curvature::detail
