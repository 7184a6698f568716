#pragma once

#include <functional>
#include <map>
#include <set>
#include <string>
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
};

/// Finds the blocks on the first batch and checks them: the gradient of each covered parameter must
/// be the one that its uses say, and each example must have positions of its own.
LayerPlan plan_layers(const EmpiricalRisk& risk, const KfacOptions& options);

/// A batch after its forward pass, with what the blocks of a plan need.
class LayerPass {
 public:
  /// @throws NotSupportedError if the batch uses layers in another way than the plan says
  LayerPass(const EmpiricalRisk& risk, const LayerPlan& plan, const BatchRisk& batch,
            bool separate_bias);

  /// The model's output, without graph.
  at::Tensor output() const { return output_.detach(); }
  int64_t num_examples() const { return num_examples_; }
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

  const LayerPlan& plan_;
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
