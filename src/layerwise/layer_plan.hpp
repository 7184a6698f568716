#pragma once

#include <functional>
#include <map>
#include <memory>
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
  /// Biases that an operation of its own adds to a layer's output, and that are not the layer's:
  /// the output is used elsewhere as well.
  std::set<size_t> apart;
  /// Some parameters meet the examples of a batch together (an embedding of positions, added to
  /// each example), so that their gradients come apart only if examples run alone.
  bool examples_alone = false;
};

/// The uses of a batch's forward pass, and its output.
struct Recorded {
  std::vector<std::shared_ptr<const OperationUse>> uses;
  at::Tensor output;
};

Recorded record(const EmpiricalRisk& risk, const BatchRisk& batch);

/// Finds the blocks in the forward pass of a batch and checks them on a few of its examples: the
/// gradient of each covered parameter must be the one that its uses say, the rows of each use must
/// be the examples' as its rule says, and an example must have as many positions as in the batch.
/// Done once for a risk; costs a forward pass of the batch and another, with two backward passes,
/// of three examples.
LayerPlan plan_layers(const EmpiricalRisk& risk, const KfacOptions& options,
                      const BatchRisk& batch);
/// The same for the first batch.
LayerPlan plan_layers(const EmpiricalRisk& risk, const KfacOptions& options);

/// Visits all batches of the data; the observer is told after each.
void for_each_batch(const EmpiricalRisk& risk, const Observer& observer, std::string_view task,
                    const std::function<void(const BatchRisk&)>& visit);

/// The batch, or its examples one by one if the plan says so.
void for_each_piece(const EmpiricalRisk& risk, const LayerPlan& plan, const BatchRisk& batch,
                    const std::function<void(const BatchRisk&)>& visit);

// What a plan and a pass have in common.

/// With separate biases, a part with weight and bias becomes two.
std::vector<LayerPart> split(const LayerPart& part, bool separate_bias);

/// Whether a part is one of the block's uses.
bool same_block(const LayerBlock& block, const LayerPart& part);

/// The parts of each use of a forward pass. A bias that an operation of its own adds to a layer's
/// output becomes the layer's.
std::vector<MatchedUse> match_uses(const LayerPlan& plan, const Recorded& recorded,
                                   int64_t num_examples);

}  // namespace curvature::detail
