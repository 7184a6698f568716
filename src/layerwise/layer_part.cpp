#include "layerwise/layer_part.hpp"

#include "core/check.hpp"

namespace curvature::detail {

MatchedUse match_use(const std::shared_ptr<const OperationUse>& use, int64_t num_examples) {
  static const std::vector<LayerRule> rules = {&linear_rule,        &matmul_rule,
                                               &convolution_rule,   &embedding_rule,
                                               &normalization_rule, &elementwise_rule};
  std::string reason;
  for (const LayerRule rule : rules) {
    MatchedUse matched = rule(use, num_examples);
    if (!matched.parts.empty()) return matched;
    if (reason.empty()) reason = matched.reason;
  }
  if (reason.empty()) reason = fmt::format("no layer rule covers {}", use->name);
  return {.parts = {}, .reason = reason};
}

std::optional<at::Tensor> rows_of_examples(const at::Tensor& x, int64_t num_examples) {
  if (x.dim() < 2 || x.size(-1) == 0 || x.numel() == 0) return std::nullopt;
  const int64_t width = x.size(-1);
  if (x.size(0) % num_examples == 0) return x.reshape({num_examples, -1, width});
  if (x.dim() > 2 && x.size(1) == num_examples) {
    return x.transpose(0, 1).reshape({num_examples, -1, width});
  }
  return std::nullopt;
}

std::optional<at::Tensor> channel_rows_of_examples(const at::Tensor& x, int64_t num_examples) {
  if (x.dim() <= 2) return rows_of_examples(x, num_examples);
  return rows_of_examples(x.flatten(2).transpose(1, 2), num_examples);
}

}  // namespace curvature::detail
