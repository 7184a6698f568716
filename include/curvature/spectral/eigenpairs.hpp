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
  int64_t max_restarts = 300;  ///< of the Lanczos iteration; 0: the Krylov space is filled once
  /// Vectors of the Krylov space, at least two more than the pairs; by default 20 more than twice
  /// the pairs. ARPACK takes max(2 k + 1, 20): less memory, as a rule more products.
  std::optional<int64_t> max_basis = std::nullopt;
  /// Search for copies of multiple eigenvalues. Without it a multiple eigenvalue may show up once.
  bool find_copies = true;
  /// Measure residuals with one more product for each pair. Without it they are estimates of the
  /// Lanczos recurrence, which are exact but for rounding (never given below 1e-13 |A| in float64
  /// and 1e-6 |A| in float32).
  bool verify = true;
  /// Where the Krylov space begins, `[n]` in the operator's dtype on its device; random if
  /// undefined. An eigenvector that `start` has no part of is left to rounding and to the search
  /// for copies.
  at::Tensor start = {};
  RandomSource random = RandomSource();  ///< of start vectors
  Observer observer = {};                ///< sees the products
};

/// Eigenvalues, their vectors, and how good they are.
struct Eigenpairs {
  std::vector<double> values;     ///< with multiplicity
  at::Tensor vectors;             ///< `[n, k]`, orthonormal, in the operator's dtype on its device
  std::vector<double> residuals;  ///< |A u - l u|: measured, or estimated if the options say so
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

/// Extreme eigenpairs of a symmetric operator (float32 or float64) by Lanczos iteration with thick
/// restarts and full reorthogonalisation, or by a dense eigendecomposition where n is at most 256
/// or more than n/4 pairs are asked for: that costs n products and is exact. Vectors live in the
/// operator's dtype on its device, the projected matrix is float64; both ends come from one Krylov
/// space. Like `block_lanczos_eigenpairs` with blocks of one vector.
///
/// A Krylov space holds one vector of each eigenspace, so that copies of a multiple eigenvalue show
/// up by rounding only. When the iteration has converged, another one on the orthogonal complement
/// of what was found goes on from a random vector until it either finds an eigenvalue beyond the
/// last one wanted, which takes its place, or has passed by one with a probability below 1e-3
/// (Kuczynski, Wozniakowski, SIAM J. Matrix Anal. Appl. 13(4), 1992), or after a restart, until
/// its residual is a tenth of the distance. It costs 10 to 20 products where the next eigenvalue
/// stands apart, more in a cluster, and none where copies would change no value.
///
/// Convergence is relative to |A|, the largest Ritz value of the iteration itself, so eigenvalues
/// near zero (the bottom of a Gauss-Newton matrix) are found to that accuracy. Keeps `max_basis` +
/// 1 vectors. Costs a product for each vector of the Krylov space and one for each pair that is
/// verified. Wu, Simon, SIAM J. Matrix Anal. Appl. 22(2), 2000.
/// @throws NotSupportedError if the operator is not symmetric or of another dtype; OptionError for
///   counts outside 1..n, a basis without room or a start of zeros; ShapeError or DtypeDeviceError
///   if the start does not fit; NumericalError if the start or a product is not finite
EigenpairsResult eigenpairs(const LinearOperator& a, const EigenpairsOptions& options = {});
EigenpairsResult eigenpairs(const OperatorPtr& a, const EigenpairsOptions& options = {});

}  // namespace curvature
