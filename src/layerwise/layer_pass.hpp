#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "layerwise/layer_plan.hpp"

namespace curvature::detail {

/// A batch after its forward pass, with what the blocks of a plan need.
class LayerPass {
 public:
  /// @throws NotSupportedError if the batch uses a parameter in a way that the plan has not seen
  LayerPass(const EmpiricalRisk& risk, const LayerPlan& plan, const BatchRisk& batch,
            const Recorded& recorded, bool separate_bias);

  /// The model's output, without graph.
  at::Tensor output() const { return output_.detach(); }
  int64_t num_examples() const { return num_examples_; }
  /// Whether the batch uses a block (experts may see no example).
  bool uses(size_t block) const { return !parts_[block].empty(); }
  /// Positions of a block's uses among those that were recorded.
  std::vector<size_t> uses_of(size_t block) const;
  /// Positions S of a block, over all uses.
  int64_t num_positions(size_t block) const;
  /// Inputs [a; 1] of a block `[N, S, columns]`, uses joined along the positions.
  at::Tensor inputs(size_t block) const;
  /// Adds the outer products of the inputs over examples (with weights `[N]`, or all 1 if
  /// undefined) and positions to the lower triangle of `sum` `[columns, columns]`, and returns how
  /// many there are.
  double add_input_moment(size_t block, const at::Tensor& weights, at::Tensor& sum) const;
  /// Positions of the ones of a block with one-hot inputs `[N, S]`, -1 for none.
  at::Tensor indices(size_t block) const;

  /// Gradients that a gradient of the output leaves at the outputs of the operations and then at
  /// `parameters`; undefined where none arrives.
  TensorList backward(const at::Tensor& cotangent, const TensorList& parameters = {}) const;
  /// Gradients g of a block `[N, S, rows]`, from what `backward` returned.
  at::Tensor gradients(size_t block, const TensorList& backward) const;
  /// Whether two blocks have the same gradients (weight and bias of a layer apart).
  bool same_gradients(size_t block, size_t other) const;

 private:
  struct Part {
    LayerPart part;
    size_t whole;        ///< number of the layer's use, before its bias was split off
    size_t edge;         ///< position among `edges_`, and of its use
    Shape output_shape;  ///< of the operation
  };

  void add_parts(const OperationUse& use, const MatchedUse& matched, bool separate_bias);
  InputMoment add_moment(const Part& part, const at::Tensor& weights, at::Tensor& second) const;
  int64_t positions_of(const Part& part) const;
  at::TensorOptions options() const { return output_.options().requires_grad(false); }

  const LayerPlan& plan_;
  const Space& space_;
  int64_t first_example_;
  int64_t num_examples_;
  size_t num_wholes_ = 0;
  at::Tensor output_;
  std::vector<torch::autograd::Edge> edges_;
  std::vector<std::vector<Part>> parts_;   ///< of each block
  std::map<std::string, int> key_counts_;  ///< parts with an input key
  /// Of inputs that several parts share, by their key.
  mutable std::map<std::string, std::pair<at::Tensor, InputMoment>> shared_moments_;
};

}  // namespace curvature::detail
