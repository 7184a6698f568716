#include "layerwise/layer_part.hpp"

#include "core/check.hpp"

namespace curvature::detail {

MatchedUse match_use(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples) {
  static const std::vector<LayerRule> rules = {
      &linear_rule,    &matmul_rule,        &convolution_rule, &transposed_convolution_rule,
      &embedding_rule, &normalization_rule, &elementwise_rule};
  std::string reason;
  for (const LayerRule rule : rules) {
    MatchedUse matched = rule(use, examples);
    for (const LayerPart& part : matched.parts) {
      if (!part.reads || !use->was_written_to(*part.reads)) continue;
      return {.parts = {}, .reason = "its input is written to after its use"};
    }
    if (!matched.parts.empty()) return matched;
    if (reason.empty()) reason = matched.reason;
  }
  if (reason.empty()) reason = fmt::format("no layer rule covers {}", use->name);
  return {.parts = {}, .reason = reason};
}

std::string input_key_of(const at::Tensor& tensor) {
  return fmt::format("{}", static_cast<const void*>(tensor.unsafeGetTensorImpl()));
}

std::optional<at::Tensor> rows_of_examples(const at::Tensor& x, ExampleAxis examples) {
  if (x.dim() < 2 || x.size(-1) == 0 || x.numel() == 0) return std::nullopt;
  const bool merged = examples.second && x.dim() == 2;
  const int64_t axis = examples.second && !merged ? 1 : 0;
  if (x.size(axis) % examples.count != 0) return std::nullopt;
  const at::Tensor whole = merged ? x.reshape({-1, examples.count, x.size(1)}) : x;
  const at::Tensor first = examples.second ? whole.transpose(0, 1) : whole;
  return first.reshape({examples.count, -1, x.size(-1)});
}

std::optional<at::Tensor> channel_rows_of_examples(const at::Tensor& x, ExampleAxis examples) {
  if (x.dim() <= 2) return rows_of_examples(x, examples);
  return rows_of_examples(x.flatten(2).transpose(1, 2), examples);
}

}  // namespace curvature::detail
