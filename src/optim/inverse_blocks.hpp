#pragma once

#include <optional>
#include <string>
#include <vector>

#include <curvature/layerwise/kfac.hpp>

#include "layerwise/layer_plan.hpp"
#include "optim/inverse_factor.hpp"

/// Layers whose inverse Kronecker factors are learned without inverses.
namespace curvature::optim::detail {

using curvature::detail::LayerBlock;
using curvature::detail::LayerPlan;

/// A layer's block [W | b] `[rows, columns]`, preconditioned on both sides; on the rows alone where
/// it is a parameter without layer.
struct InverseBlock {
  std::string name;
  LayerBlock block;
  std::optional<InverseFactor> input;
  InverseFactor output;
  bool has_layer() const { return input.has_value(); }
};

/// What a batch says of a factor: Pi(K^T S K) for its second moment S, and t of that.
struct FactorSample {
  Parts projected;
  double mean = 0;
};

/// What a batch says of a block.
struct BlockSample {
  bool is_used = false;  ///< by the batch; if not, the rest is empty
  std::optional<FactorSample> input;
  FactorSample output;
};

/// Looks at a batch through the factors as they are, and never makes the moments that K-FAC has.
/// `offset` is added to the numbers of the examples. Sums over all workers.
std::vector<BlockSample> sample_blocks(const EmpiricalRisk& batch, const KfacOptions& options,
                                       const LayerPlan& plan,
                                       const std::vector<InverseBlock>& blocks, int64_t offset);

}  // namespace curvature::optim::detail
