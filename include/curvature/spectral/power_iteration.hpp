#pragma once

#include <cstdint>
#include <optional>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/core/random.hpp>
#include <curvature/spectral/eigenpairs.hpp>

namespace curvature {

/// Which eigenpairs, and how well.
struct PowerIterationOptions {
  int64_t count = 1;  ///< how many of the eigenvalues of largest magnitude
  /// Largest residual |A u - l u| of a converged pair, as a part of |A|; by default 1e-8 for
  /// float64 and 1e-5 for float32 operators.
  std::optional<double> tolerance = std::nullopt;
  int64_t max_iterations = 10000;        ///< for each pair
  RandomSource random = RandomSource();  ///< of the start vectors
  Observer observer = {};                ///< sees the products
};

/// The eigenpairs of largest magnitude of a symmetric operator (float32 or float64), one after
/// another by power iteration on the orthogonal complement of those found: the baseline of other
/// eigensolvers, with the least memory (the result and two vectors) and the most products.
///
/// Convergence is linear with the ratio of neighbouring magnitudes, and there is none where l and
/// -l are both eigenvalues: `kMaxIterations` says so. It stops on the residual. One product per
/// iteration; the residuals cost none. `bottom` of the result stays empty.
/// @throws NotSupportedError if the operator is not symmetric or of another dtype; OptionError for
///   counts outside 1..n; NumericalError if a product is not finite
EigenpairsResult power_iteration(const LinearOperator& a,
                                 const PowerIterationOptions& options = {});
EigenpairsResult power_iteration(const OperatorPtr& a, const PowerIterationOptions& options = {});

}  // namespace curvature
