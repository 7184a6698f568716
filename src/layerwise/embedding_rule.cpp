#include <ATen/TensorOperators.h>
#include <ATen/ops/one_hot.h>

#include "layerwise/layer_part.hpp"

namespace curvature::detail {

/// Rows of a table: x W with x one-hot.
MatchedUse embedding_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples) {
  if (use->name != "aten::embedding") return {};
  const ParameterArgument* weight = use->parameter_at(0);
  if (weight == nullptr || !weight->is_whole) {
    return {.parts = {}, .reason = "a part of a parameter is used"};
  }
  if (use->arguments[3].toBool()) {
    return {.parts = {}, .reason = "scale_grad_by_freq weighs an example by the others' indices"};
  }
  const at::Tensor indices = use->tensor(1);
  const auto rows = rows_of_examples(indices.unsqueeze(-1), examples);
  if (!rows) return {.parts = {}, .reason = "its indices have no axis for the examples"};
  const int64_t padding_index = use->arguments[2].toInt();
  const at::TensorOptions options = weight->view.options().requires_grad(false);
  LayerPart part{
      .kind = "embedding",
      .weight = weight->parameter,
      .bias = std::nullopt,
      .layout = {.groups = 1, .transposed = true},
      .inputs = nullptr,
      .indices = nullptr,
      .gradients = [examples](const at::Tensor& g) { return *rows_of_examples(g, examples); },
      .reads = 1};
  part.indices = [rows = rows->squeeze(-1), padding_index] {
    // The padding row gets no gradient.
    return padding_index < 0 ? rows : rows.masked_fill(rows.eq(padding_index), -1);
  };
  part.inputs = [indices = part.indices, count = weight->view.size(0), options] {
    const at::Tensor ones = indices();
    const at::Tensor one_hot = at::one_hot(ones.clamp_min(0), count).to(options);
    return one_hot * ones.ge(0).unsqueeze(-1).to(options);
  };
  return {.parts = {part}, .reason = {}};
}

}  // namespace curvature::detail
