#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include "layerwise/capture.hpp"

namespace curvature::detail {

/// How a parameter `[d0, d1, ...]` is a matrix `[outputs, inputs]` for each of its groups: group i
/// is the i-th part of axis 0; axis 0 counts outputs, the others inputs, or, transposed, axis 1
/// outputs and the others inputs.
struct WeightLayout {
  int64_t groups = 1;
  bool transposed = false;
};

/// Besides the second moment of inputs.
struct InputMoment {
  at::Tensor first;  ///< the sum of a over examples and positions `[inputs]`
  double count = 0;  ///< of examples times positions
};

/// What one use of a layer says about one Kronecker block: for example n the gradient of the matrix
/// [W | b] is the sum over positions s of g_ns [a_ns; 1]^T.
struct LayerPart {
  std::string kind;              ///< for people: `linear`
  std::optional<size_t> weight;  ///< position of the parameter; none for a bias alone
  std::optional<size_t> bias;
  WeightLayout layout = {};
  int64_t group = 0;
  /// a `[N, S, inputs]`, without the 1; empty for a block without weight, or whose weight is a
  /// vector that multiplies what `gradients` holds already.
  std::function<at::Tensor()> inputs = nullptr;
  /// Adds the sum of a a^T over examples and positions to the lower triangle of `second` `[inputs,
  /// inputs]` without making a; not every rule can.
  std::function<InputMoment(at::Tensor& second)> add_moment = nullptr;
  bool moment_is_cheaper = false;  ///< than the product of `inputs`
  /// Equal for parts of a pass with the same inputs (query, key and value of an attention); empty
  /// if they are not told apart.
  std::string input_key = {};
  /// Where a is one-hot: the positions of its ones `[N, S]`, -1 for none.
  std::function<at::Tensor()> indices = nullptr;
  /// g `[N, S, outputs]`, from the gradient of the operation's output.
  std::function<at::Tensor(const at::Tensor& output_gradient)> gradients;
  /// For a bias alone: where the gradient of what it is added to arrives.
  torch::autograd::Edge adds_to = {};
  /// Whether a vector that is added to the last axis of the output is the bias of this layer.
  bool takes_bias = false;
  std::optional<size_t> reads = std::nullopt;  ///< the argument of the use that is kept for later
};

/// Parts of a use, all of its parameters covered; or none, and why.
struct MatchedUse {
  std::vector<LayerPart> parts = {};
  std::string reason = {};  ///< for people, if there are no parts
  bool joined = false;      ///< no parts, because another use's part took its bias over
};

/// Names the inputs of a layer that are `tensor` as it is.
std::string input_key_of(const at::Tensor& tensor);

/// Where the N examples are: on the first axis (outermost in it, if positions were merged into it),
/// or on the second of a sequence that comes first (innermost in the first, if both were merged).
struct ExampleAxis {
  int64_t count;
  bool second = false;
};

/// Knows how some operations use their parameters.
using LayerRule = MatchedUse (*)(const std::shared_ptr<const OperationUse>& use,
                                 ExampleAxis examples);

// One rule each, in a file of its own; a rule that does not know the operation returns nothing.
MatchedUse linear_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples);
MatchedUse matmul_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples);
MatchedUse convolution_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples);
MatchedUse transposed_convolution_rule(const std::shared_ptr<const OperationUse>& use,
                                       ExampleAxis examples);
MatchedUse embedding_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples);
MatchedUse normalization_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples);
MatchedUse elementwise_rule(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples);

/// The first rule that knows the use.
MatchedUse match_use(const std::shared_ptr<const OperationUse>& use, ExampleAxis examples);

/// `x` `[..., d]` as rows of examples `[N, S, d]`; empty if the axis does not hold N examples.
std::optional<at::Tensor> rows_of_examples(const at::Tensor& x, ExampleAxis examples);
/// The same for channels second: `[N, C, ...]` to `[N, S, C]`.
std::optional<at::Tensor> channel_rows_of_examples(const at::Tensor& x, ExampleAxis examples);

}  // namespace curvature::detail
