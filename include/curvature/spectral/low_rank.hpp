#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/core/random.hpp>
#include <curvature/spectral/eigenpairs.hpp>
#include <curvature/spectral/operator_ref.hpp>

/// \file
/// Approximations of low rank from products with random vectors, and operators made of them. How
/// good one is tells `frobenius_distance`.

namespace curvature {

/// How large a random subspace is, and how often it is multiplied.
struct RandomizedOptions {
  int64_t rank = 50;                     ///< values and vectors to return; clipped to the size
  int64_t oversampling = 10;             ///< further random vectors, dropped at the end
  int64_t power_iterations = 2;          ///< sharpen the subspace where values fall slowly
  int64_t columns_at_once = 16;          ///< vectors multiplied together
  RandomSource random = RandomSource();  ///< of the subspace
  Observer observer = {};                ///< sees the products
};

/// A ~ U diag(s) V^T.
struct SingularTriplets {
  at::Tensor left = {};                ///< U `[m, k]`, orthonormal, in the operator's dtype
  std::vector<double> values = {};     ///< s, largest first
  at::Tensor right = {};               ///< V `[n, k]`, orthonormal
  std::vector<double> residuals = {};  ///< |A v - s u|; A^T u = s v holds to rounding
  int64_t products = 0;                ///< with A and A^T together
};

/// The largest singular values and vectors of any operator by the randomised range finder: with p
/// extra vectors the subspace Q holds all of A but, in expectation, sqrt(1 + k / (p - 1)) times
/// what the best k-dimensional one leaves (Frobenius norm, without power iterations; those make it
/// better). Costs (2 q + 2) (k + p) + k products for q power iterations, and three tall matrices.
/// Halko, Martinsson, Tropp, SIAM Rev. 53(2), 2011.
/// @throws NotSupportedError if `a` has no adjoint; OptionError for counts that are negative or a
///   rank of 0; NumericalError if a product is not finite
SingularTriplets randomized_svd(OperatorRef a, const RandomizedOptions& options = {});

/// Eigenpairs of largest magnitude of a symmetric operator: subspace iteration from a random
/// subspace and a Rayleigh-Ritz step. Costs (q + 2) (k + p) products. `bottom` is empty;
/// termination is `kConverged`, since nothing is asked for: residuals tell.
/// @throws NotSupportedError if `a` is not symmetric; else as `randomized_svd`
EigenpairsResult subspace_iteration(OperatorRef a, const RandomizedOptions& options = {});

/// How a Nystrom approximation is made.
struct NystromOptions {
  int64_t rank = 50;                     ///< of the approximation; clipped to n
  int64_t oversampling = 0;              ///< further random vectors, truncated at the end
  bool residuals = true;                 ///< computes them, which doubles the products
  int64_t columns_at_once = 16;          ///< vectors multiplied together
  RandomSource random = RandomSource();  ///< of the test vectors
  Observer observer = {};                ///< sees the products
};

/// Nystrom approximation A O (O^T A O)^-1 (A O)^T = U diag(l) U^T of a positive semidefinite
/// operator from one product with each of r random vectors: never larger than A, and for every k <
/// r - 1 the trace of what is left is in expectation at most (1 + k / (r - k - 1)) times the sum of
/// the eigenvalues after the k largest. A small shift makes it stable; operators of a rank below r
/// are reproduced. Tropp, Yurtsever, Udell, Cevher, "Fixed-rank approximation of a positive-
/// semidefinite matrix from streaming data", 2017.
/// @throws NotSupportedError if `a` is not symmetric; NumericalError if it proves to have negative
///   eigenvalues; else as `randomized_svd`
EigenpairsResult nystrom(OperatorRef a, const NystromOptions& options = {});

/// U diag(l) U^T as an operator on `space`.
OperatorPtr low_rank_operator(const Eigenpairs& pairs, Space space);
/// U diag(l) U^T + D, D = max(d - diag(U diag(l) U^T), 0): has the diagonal d `[n]` of the operator
/// that is approximated.
/// @throws ShapeError, DtypeDeviceError if d does not fit
OperatorPtr low_rank_operator(const Eigenpairs& pairs, const at::Tensor& d, Space space);

/// A preconditioner for A + shift I from the largest eigenpairs of A, exact or approximate:
/// (l_r + shift) U (diag(l) + shift)^-1 U^T + (I - U U^T), positive definite. With the Nystrom
/// approximation of rank 2 ceil(1.5 d) + 1, d the effective dimension tr A (A + shift I)^-1, the
/// preconditioned condition number is at most 28 in expectation. Frangella, Tropp, Udell, SIAM J.
/// Matrix Anal. Appl. 44(2), 2023.
/// @throws OptionError if `shift` plus an eigenvalue is not positive, or there are no pairs
OperatorPtr nystrom_preconditioner(const Eigenpairs& pairs, double shift, Space space);

}  // namespace curvature
