#pragma once

#include <vector>

#include "layerwise/layer_plan.hpp"

namespace curvature::detail {

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
  /// Adds the sum of their outer products to `sum` `[columns, columns]` without making them, and
  /// returns how many there are; or does nothing where that is not cheaper.
  std::optional<int64_t> add_moment(size_t block, at::Tensor& sum) const;
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

}  // namespace curvature::detail
