#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/core/random.hpp>
#include <curvature/spectral/eigenpairs.hpp>

namespace curvature {

/// Which eigenpairs, how well, and with what help.
struct LobpcgOptions {
  int64_t count = 5;     ///< how many of the smallest eigenvalues
  bool largest = false;  ///< the largest ones instead
  /// Vectors iterated beyond `count`: they need not converge and speed up those that must.
  int64_t guard_vectors = 2;
  /// Approximate inverse of A near the wanted eigenvalues, positive definite; null for none.
  OperatorPtr preconditioner = nullptr;
  /// Where to begin, `[n, k]` with k >= `count` columns, which replaces the guard vectors; random
  /// by default.
  at::Tensor start = {};
  /// Largest residual |A u - l u| of a converged pair, as a part of |A|; by default 1e-8 for
  /// float64 and 1e-5 for float32 operators.
  std::optional<double> tolerance = std::nullopt;
  int64_t max_iterations = 500;          ///< each has a product for every vector not converged
  RandomSource random = RandomSource();  ///< of the start vectors
  Observer observer = {};                ///< sees the products
};

/// The smallest (or largest) eigenpairs of a symmetric operator (float32 or float64) by the locally
/// optimal block preconditioned conjugate gradient method, on tensors: vectors stay in the
/// operator's dtype on its device, projected matrices are float64 on the CPU. With a preconditioner
/// the practical way to the small end of a spectrum.
///
/// Every iteration takes the best vectors out of the span of the current ones, their preconditioned
/// residuals and the last steps. Converged vectors stay in that span but cost no more products
/// (soft locking); directions that depend on others numerically are dropped. Multiplicities are
/// found up to the number of vectors. Residuals reported are those of fresh products: the iteration
/// goes on where rounding made its own ones too small, and `kStagnated` says that this did not
/// help.
///
/// Where the vectors are more than a quarter of n, `eigenpairs` answers. Keeps three blocks of
/// vectors and their products, and as much again while it combines them. Costs, besides the
/// iterations, 8 products to learn |A| and two for every vector. `top` or `bottom` of the result
/// stays empty. Knyazev, SIAM J. Sci. Comput. 23(2), 2001; Hetmaniuk, Lehoucq, J. Comput. Phys.
/// 218, 2006.
/// @throws NotSupportedError if the operator or its preconditioner is not symmetric or of another
///   dtype; OptionError for counts outside 1..n; ShapeError or DtypeDeviceError if `start` or the
///   preconditioner do not fit; NumericalError if a product is not finite
EigenpairsResult lobpcg(const LinearOperator& a, const LobpcgOptions& options = {});
EigenpairsResult lobpcg(const OperatorPtr& a, const LobpcgOptions& options = {});

}  // namespace curvature
