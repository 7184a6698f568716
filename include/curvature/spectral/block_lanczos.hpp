#pragma once

#include <cstdint>
#include <optional>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/core/random.hpp>
#include <curvature/spectral/eigenpairs.hpp>

namespace curvature {

/// Which eigenpairs, how well, and in what space.
struct BlockLanczosOptions {
  int64_t count = 10;        ///< how many of the largest eigenvalues
  int64_t count_bottom = 0;  ///< how many of the smallest ones; algebraic order only
  EigenvalueOrder order = EigenvalueOrder::kAlgebraic;  ///< of the largest ones
  /// Vectors of a product; 1 is thick-restart Lanczos.
  int64_t block_size = 4;
  /// Vectors of the Krylov space; clipped to n, else at least the pairs asked for and two blocks.
  /// By default twice the pairs and max(20, 8 blocks).
  std::optional<int64_t> max_basis = std::nullopt;
  /// Largest residual |A u - l u| of a converged pair, as a part of |A|; by default 1e-8 for
  /// float64 and 1e-5 for float32 operators.
  std::optional<double> tolerance = std::nullopt;
  int64_t max_restarts = 300;            ///< 0: the Krylov space is filled once
  RandomSource random = RandomSource();  ///< of the start vectors
  Observer observer = {};                ///< sees the products
};

/// What `eigenpairs` answers, and what the basis cost.
struct BlockLanczosResult : EigenpairsResult {
  int64_t num_steps = 0;     ///< products with a block
  int64_t num_restarts = 0;  ///< times the basis was compressed
  /// How often orthogonalisation read the basis (as long as it was then): twice for each
  /// Gram-Schmidt pass, once more in the first step after a restart, and twice for each block of
  /// random vectors.
  int64_t basis_passes = 0;
};

/// Extreme eigenpairs of a symmetric operator (float32 or float64) by block Lanczos iteration with
/// thick restarts and full reorthogonalisation, on tensors: vectors stay in the operator's dtype on
/// its device, the projected matrix is float64 on the CPU. Both ends come from one Krylov space.
///
/// Each step multiplies a block of b vectors, so that a pass over the data serves all of them, and
/// removes the known couplings first; one Gram-Schmidt pass then leaves an orthonormal basis, and a
/// second one follows where that one cancels or the block is ill-conditioned. That reads the basis
/// 2.5 times a step at most, and twice more where the block loses rank. A block that loses rank is
/// filled up with random vectors orthogonal to the basis, so a breakdown ends nothing early; there
/// are never more than n vectors.
///
/// Eigenvalues of multiplicity up to b are found with all their copies. Where b of those found are
/// equal (to the tolerance), there may be more: another block of random vectors, orthogonal to what
/// was found, is followed until its best Ritz value is either a copy or surely none (its residual
/// is a tenth of its distance). With b = 1 that is always done.
///
/// Memory: `max_basis + b` vectors in one buffer that is restarted in place, besides what a product
/// with a block takes. Costs one product for each vector of the basis and one for each
/// pair returned. Wu, Simon, SIAM J. Matrix Anal. Appl. 22(2), 2000; Golub, Underwood, "The block
/// Lanczos method for computing eigenvalues", 1977.
/// @throws NotSupportedError if the operator is not symmetric or of another dtype; OptionError for
///   counts outside 1..n or a basis without room; NumericalError if a product is not finite
BlockLanczosResult block_lanczos_eigenpairs(const LinearOperator& a,
                                            const BlockLanczosOptions& options = {});
BlockLanczosResult block_lanczos_eigenpairs(const OperatorPtr& a,
                                            const BlockLanczosOptions& options = {});

}  // namespace curvature
