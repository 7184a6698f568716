#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>

namespace curvature {

/// How many steps, and how orthogonal.
struct LanczosOptions {
  int64_t num_steps = 80;  ///< at most; clipped to n
  /// Full reorthogonalisation by classical Gram-Schmidt, after the three-term recurrence, with a
  /// second pass where the first one cancels: keeps `num_steps + 1` vectors and reads them twice or
  /// four times a step. Without it three vectors are kept and no basis is returned: eigenvalues
  /// then appear in several copies whose quadrature weights add up to the right ones.
  bool reorthogonalize = true;
  Observer observer = {};  ///< sees the steps
};

/// A V = V T + beta_m v_{m+1} e_m^T with T = tridiag(betas, alphas, betas) and orthonormal V.
struct LanczosResult {
  std::vector<double> alphas;  ///< diagonal of T, `[m]`
  /// beta_1, ..., beta_m: the off-diagonal of T, then the norm of the last residual (0 on
  /// breakdown).
  std::vector<double> betas;
  /// V^T `[m, n]` in the operator's dtype; undefined without reorthogonalisation.
  at::Tensor basis;
  at::Tensor next;        ///< v_{m+1} `[n]`; undefined on breakdown and without reorthogonalisation
  double start_norm = 0;  ///< |start|
  bool breakdown = false;  ///< the Krylov space is invariant: Ritz pairs and quadrature are exact
  /// How often orthogonalisation read the basis (as long as it was then): twice for each
  /// Gram-Schmidt pass, at most 2.5 times a step unless the operator's rounding is all there is.
  int64_t basis_passes = 0;

  /// Steps made, which is also the number of products.
  int64_t num_steps() const noexcept { return static_cast<int64_t>(alphas.size()); }
};

/// Lanczos tridiagonalisation of a symmetric operator (float32 or float64) from `start` `[n]`.
///
/// Vectors live in the operator's dtype on its device, scalars in double. The iteration ends after
/// `num_steps` steps, or when beta falls to rounding level against the largest entry of T (1e-13 in
/// float64, 1e-6 in float32): then the Krylov space is invariant. Costs one product per step.
/// Golub, Van Loan, "Matrix Computations", 10.1; when to orthogonalise twice: Daniel, Gragg,
/// Kaufman, Stewart, Math. Comp. 30(136), 1976.
/// @throws NotSupportedError if the operator is not symmetric or of another dtype; ShapeError or
///   DtypeDeviceError if `start` does not fit; OptionError if `start` is zero or `num_steps` not
///   positive; NumericalError if `start` or a product is not finite
LanczosResult lanczos(const LinearOperator& a, const at::Tensor& start,
                      const LanczosOptions& options = {});

/// Eigenpairs of T, ascending.
struct RitzPairs {
  std::vector<double> values;     ///< theta_1 <= ... <= theta_m
  at::Tensor coefficients;        ///< Y `[m, m]`, float64 on the CPU: T Y = Y diag(values)
  std::vector<double> residuals;  ///< |A u - theta u| = |beta_m Y(m, i)| of each Ritz vector
};

/// Ritz values, coefficients and residual norms of a Lanczos run; no products.
RitzPairs ritz_pairs(const LanczosResult& run);

/// Ritz vectors number `first`, ..., `first + count - 1` of `ritz`, `[n, count]`.
/// @throws OptionError if the run kept no basis or the range does not fit
at::Tensor ritz_vectors(const LanczosResult& run, const RitzPairs& ritz, int64_t first,
                        int64_t count);

}  // namespace curvature
