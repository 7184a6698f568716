#include <ATen/TensorOperators.h>

#include "layerwise/layer_part.hpp"

namespace curvature::detail {

/// A vector of parameters that is added to, or multiplies, the last axis of something: bias and
/// scale on their own.
MatchedUse elementwise_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples) {
  const bool adds = use->name == "aten::add" || use->name == "aten::add_";
  const bool multiplies = use->name == "aten::mul";
  if (!adds && !multiplies) return {};
  if (use->parameters.size() != 1) return {.parts = {}, .reason = "two parameters are combined"};
  const ParameterArgument& vector = use->parameters.front();
  const size_t other = 1 - vector.argument;
  const bool scaled = adds && use->arguments[2].toScalar().toDouble() != 1;
  const bool is_last_axis = vector.is_whole && vector.view.dim() == 1 &&
                            use->output_shape.size() >= 2 &&
                            use->output_shape.back() == vector.view.size(0);
  if (!is_last_axis || scaled || !use->arguments[other].isTensor()) {
    return {.parts = {}, .reason = "a parameter is combined with other axes than the last"};
  }
  const at::Tensor x = use->tensor(other).detach();
  if (x.sizes() != c10::IntArrayRef(use->output_shape) || !rows_of_examples(x, examples)) {
    return {.parts = {}, .reason = "what it is combined with has no axis for the examples"};
  }
  const auto rows = [examples](const at::Tensor& g) { return *rows_of_examples(g, examples); };
  if (adds) {
    return {.parts = {{.kind = "bias",
                       .weight = std::nullopt,
                       .bias = vector.parameter,
                       .gradients = rows,
                       .adds_to = use->argument_edges[other]}},
            .reason = {}};
  }
  return {.parts = {{.kind = "scale",
                     .weight = vector.parameter,
                     .bias = std::nullopt,
                     .gradients = [rows, x](const at::Tensor& g) { return rows(g) * rows(x); },
                     .reads = other}},
          .reason = {}};
}

}  // namespace curvature::detail
