#pragma once

#include <vector>

#include "layerwise/kfac_statistics.hpp"

namespace curvature::detail {

/// Kronecker factors of a chain of layers.
struct ChainFactors {
  std::vector<FactorPair> layers;  ///< of each layer with itself, positive definite
  /// Of each layer but the last with the next: inputs `[columns_i, columns_j]`, gradients `[rows_i,
  /// rows_j]`.
  std::vector<FactorPair> pairs;
};

/// The inverse of block-tridiagonal K-FAC: see `kfac_block_tridiagonal_inverse`. The blocks, in the
/// order of the chain, lie anywhere in `space` and cover it.
/// @throws NumericalError that names the layer whose factors are not definite
OperatorPtr block_tridiagonal_inverse(std::vector<LayerBlock> blocks, const ChainFactors& factors,
                                      const Space& space);

}  // namespace curvature::detail
