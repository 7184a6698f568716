#pragma once

#include <curvature/spectral/estimate.hpp>
#include <curvature/spectral/operator_ref.hpp>

/// \file
/// The trace of A on a random subspace that holds most of it, exactly, plus a Hutchinson estimate
/// of the rest. For positive semidefinite A the error falls like 1/products instead of
/// 1/sqrt(products), and faster for quickly falling eigenvalues. Meyer, Musco, Musco, Woodruff,
/// "Hutch++", SOSA 2021.
///
/// A third of the products (rounded down) draws the subspace, as many measure it, the others are
/// samples of the rest: a requested error ends those early. The standard error is that of the rest,
/// given the subspace. With a budget of n products or more the answer is exact and costs n. Keeps a
/// third of the budget as vectors, twice.

namespace curvature {

/// Trace of a square operator as tr Q^T A Q + mean of w^T A w, Q = orth(A S), w = (I - Q Q^T) z.
/// Unbiased.
/// @throws ShapeError if `a` is not square, OptionError, NumericalError if a product is not finite
Estimate hutch_plus_plus_trace(OperatorRef a, const EstimateOptions& options = {});

/// Frobenius norm from |A Q|_F^2 + mean of |A w|^2, Q = orth(A^T S), w = (I - Q Q^T) z, which
/// estimates its square without bias.
/// @throws NotSupportedError if `a` has no adjoint, OptionError, NumericalError if a product is not
///   finite
FrobeniusEstimate hutch_plus_plus_frobenius_norm(OperatorRef a,
                                                 const EstimateOptions& options = {});

}  // namespace curvature
