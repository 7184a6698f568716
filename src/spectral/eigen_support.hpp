#pragma once

#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/spectral/eigenpairs.hpp>

/// What the eigensolvers share.
namespace curvature::detail {

/// Relative to |A|, what a residual of pure rounding looks like. Taking it for a breakdown too late
/// costs a few products; too early would lose a spectrum far below its outliers.
double breakdown_threshold(at::ScalarType dtype);
/// @throws NotSupportedError unless `a` is in float32 or float64
void check_dtype(const LinearOperator& a, const char* who);
/// @throws NotSupportedError unless `a` is symmetric and in float32 or float64
void check_symmetric(const LinearOperator& a, const char* who);
/// @throws OptionError unless `a` has that many pairs, at least one is asked for, and the order has
/// a bottom if one is asked for
void check_selection(const LinearOperator& a, const char* who, int64_t count, int64_t count_bottom,
                     EigenvalueOrder order);
/// @throws OptionError if it is given and not positive
void check_tolerance(const std::optional<double>& tolerance, const char* who);
/// @throws OptionError as `check_tolerance`, or for a negative number of restarts
void check_iteration(const char* who, const std::optional<double>& tolerance, int64_t max_restarts);
/// @throws OptionError if `max_basis` has no room for the pairs and two blocks, or n vectors
void check_basis(const LinearOperator& a, const char* who, int64_t pairs, int64_t block_size,
                 int64_t max_basis);
/// `tolerance`, or what an operator of this dtype can reach: 1e-8 or 1e-5.
double tolerance_of(const LinearOperator& a, const std::optional<double>& tolerance);

at::TensorOptions tensor_options(const LinearOperator& a);
/// Euclidean norms of the columns of a matrix, accumulated in double.
std::vector<double> column_norms(const at::Tensor& matrix);

/// |A|, from below and within a few percent, by some Lanczos steps.
struct NormEstimate {
  double norm;
  double smallest;   ///< Ritz value
  double largest;    ///< Ritz value
  int64_t products;  ///< made
};
NormEstimate estimate_norm(const LinearOperator& a, const at::Tensor& start);

/// |A u - l u| of each pair, with one product each.
std::vector<double> residual_norms(const LinearOperator& a, const Eigenpairs& pairs);
/// Measures the residuals of both ends and counts the products.
void measure_residuals(const LinearOperator& a, EigenpairsResult& result);
/// `kConverged` if all residuals are at most `allowed`, else `kStagnated`.
Termination judge_residuals(double allowed, const EigenpairsResult& result);

/// An orthonormal basis `[n, k]` of a space that holds the columns of `matrix` `[n, k]`, k <= n;
/// each column is contiguous. By Cholesky factors of two Gram matrices, at the speed of matrix
/// products (Yamamoto, Nakatsukasa, Yanagisawa, Fukaya, ETNA 44, 2015), or by Householder
/// reflections where the columns are close to dependent.
at::Tensor orthonormal_basis(const at::Tensor& matrix);

/// The columns of `matrix` `[n, k]` made orthonormal and orthogonal to the orthonormal columns of
/// every matrix in `bases`, without those that depend on the others numerically: `[n, r]`, r <= k.
/// SVQB (Stathopoulos, Wu, SIAM J. Sci. Comput. 23(6), 2002), twice.
at::Tensor orthonormalize(at::Tensor matrix, const std::vector<at::Tensor>& bases);

}  // namespace curvature::detail
