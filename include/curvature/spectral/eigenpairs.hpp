#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/core/random.hpp>
#include <curvature/core/termination.hpp>

namespace curvature {

/// What "the largest" means.
enum class EigenvalueOrder {
  kAlgebraic,  ///< by value
  kMagnitude,  ///< by |value|
};

/// Which eigenpairs, and how well.
struct EigenpairsOptions {
  int64_t count = 10;        ///< how many of the largest eigenvalues
  int64_t count_bottom = 0;  ///< how many of the smallest ones; algebraic order only
  EigenvalueOrder order = EigenvalueOrder::kAlgebraic;  ///< of the largest ones
  /// Largest residual |A u - l u| of a converged pair, as a part of |A|; by default 1e-8 for
  /// float64 and 1e-5 for float32 operators.
  std::optional<double> tolerance = std::nullopt;
  int64_t max_restarts = 300;            ///< of the Lanczos iteration, at each end
  RandomSource random = RandomSource();  ///< of the start vectors
  Observer observer = {};                ///< sees the products
};

/// Eigenvalues, their vectors, and how good they are.
struct Eigenpairs {
  std::vector<double> values;     ///< with multiplicity
  at::Tensor vectors;             ///< `[n, k]`, orthonormal, in the operator's dtype on its device
  std::vector<double> residuals;  ///< |A u - l u|, from one more product with each vector
};

/// Both ends of a spectrum, and what they cost.
struct EigenpairsResult {
  Eigenpairs top = {};     ///< largest first
  Eigenpairs bottom = {};  ///< smallest first
  int64_t products = 0;    ///< with the operator, single vectors
  /// `kStagnated`: the operator's own rounding keeps residuals above the tolerance.
  Termination termination = Termination::kConverged;
  bool dense = false;  ///< the matrix was formed
};

/// Extreme eigenpairs of a symmetric operator by implicitly restarted Lanczos iteration with full
/// reorthogonalisation (Spectra, in float64 on the CPU whatever the operator's dtype and device),
/// or by a dense eigendecomposition where n is at most 256 or more than n/4 pairs are asked for:
/// that costs n products and is exact.
///
/// A Krylov space holds one vector of each eigenspace, so that copies of a multiple eigenvalue show
/// up by rounding only. When the iteration has converged, another one on the orthogonal complement
/// of what was found goes on until it either finds a larger eigenvalue, which is inserted, or is
/// sure enough to stay below: its residual is a tenth of the distance. It costs 20 to 50 products
/// where the next eigenvalue stands apart, more in a cluster. The order by magnitude takes both
/// ends.
///
/// Convergence is relative to |A|, so eigenvalues near zero (the bottom of a Gauss-Newton matrix)
/// are found to that accuracy. Keeps 2 k + 20 vectors in float64 and costs, besides the iteration,
/// 8 products to learn the scale of A and one for each pair returned. Sorensen, SIAM J. Matrix
/// Anal. Appl. 13(1), 1992.
/// @throws NotSupportedError if the operator is not symmetric; OptionError for counts outside 1..n;
///   NumericalError if a product is not finite
EigenpairsResult eigenpairs(const LinearOperator& a, const EigenpairsOptions& options = {});
EigenpairsResult eigenpairs(const OperatorPtr& a, const EigenpairsOptions& options = {});

}  // namespace curvature
