#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include <curvature/layerwise/kfac.hpp>
#include <curvature/model/empirical_risk.hpp>

#include "layerwise/layer_block.hpp"

namespace curvature::detail {

/// Blocks of a risk, and what is not in any.
struct LayerPlan {
  std::vector<LayerBlock> blocks;
  std::map<size_t, std::string> uncovered;  ///< parameters without a rule, and why
  std::vector<size_t> unused;               ///< parameters that the model does not use
  std::set<size_t> sequence_first;          ///< parameters whose uses have examples second
  /// Some parameters meet the examples of a batch together (an embedding of positions, added to
  /// each example), so that their gradients come apart only if examples run alone.
  bool examples_alone = false;
};

/// Finds the blocks on the first batch and checks them: the gradient of each covered parameter must
/// be the one that its uses say, and each example must have positions of its own.
LayerPlan plan_layers(const EmpiricalRisk& risk, const KfacOptions& options);

/// Visits the batches of the data, cut into single examples if the plan says so.
void for_each_batch(const EmpiricalRisk& risk, const LayerPlan& plan, const Observer& observer,
                    std::string_view task, const std::function<void(const BatchRisk&)>& visit);

/// A batch after its forward pass, with what the blocks of a plan need.
class LayerPass {
 public:
  /// Asking for what a batch does not use throws NotSupportedError.
  LayerPass(const EmpiricalRisk& risk, const LayerPlan& plan, const BatchRisk& batch,
            bool separate_bias);

  /// The model's output, without graph.
  at::Tensor output() const { return output_.detach(); }
  int64_t num_examples() const { return num_examples_; }
  /// Positions S of a block, over all uses; 0 if this batch does not use it.
  int64_t num_positions(size_t block) const;
  /// Inputs [a; 1] of a block `[N, S, columns]`, uses joined along the positions.
  at::Tensor inputs(size_t block) const;
  /// Positions of the ones of a block with one-hot inputs `[N, S]`, -1 for none.
  at::Tensor indices(size_t block) const;
  /// Gradients g of all blocks `[N, S, rows]` for a gradient of the output.
  TensorList gradients(const at::Tensor& cotangent) const;

 private:
  struct Part {
    LayerPart part;
    size_t edge;         ///< position among `edges_`
    Shape output_shape;  ///< of the operation
  };

  /// @throws NotSupportedError if there are none
  const std::vector<Part>& parts_of(size_t block) const;

  const LayerPlan& plan_;
  int64_t first_example_;
  int64_t num_examples_;
  at::Tensor output_;
  std::vector<torch::autograd::Edge> edges_;
  std::vector<std::vector<Part>> parts_;  ///< of each block
};

/// Vectors to backpropagate, shaped as the output, scaled such that the sum of their outer products
/// is k times the (approximate) Hessian of the loss: calls `visit` for each.
void for_each_cotangent(const EmpiricalRisk& risk, const BatchRisk& batch, const at::Tensor& output,
                        const KfacOptions& options,
                        const std::function<void(const at::Tensor&)>& visit);

}  // namespace curvature::detail
