#pragma once

#include <cstdint>

namespace curvature::optim {

/// Matrices closed under sums and products that contain the identity: what the factor K of an
/// inverse-free method may be. Lin et al., "Structured inverse-free natural gradient descent",
/// ICML 2024, section 3.2.
enum class FactorStructure {
  kDense,            ///< d^2 entries
  kDiagonal,         ///< d
  kBlockDiagonal,    ///< blocks of `block_size`, the last one smaller
  kLowerTriangular,  ///< stored with its zeros
  kUpperTriangular,  ///< the same
  kLowerToeplitz,    ///< constant along diagonals, zero above the main one: d entries
  kUpperToeplitz,    ///< its transpose
  /// [A B C; 0 diagonal 0; 0 D E] with A `[top, top]` and E `[bottom, bottom]`: (top + bottom) d
  /// entries.
  kHierarchical,
};

/// A structure with its sizes.
struct StructureOptions {
  FactorStructure kind = FactorStructure::kDense;  ///< see there
  int64_t block_size = 30;                         ///< of block-diagonal matrices
  int64_t top = 15;                                ///< of hierarchical ones; clipped to d
  int64_t bottom = 15;                             ///< of hierarchical ones; clipped to d - top
};

}  // namespace curvature::optim
