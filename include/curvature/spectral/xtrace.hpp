#pragma once

#include <curvature/spectral/estimate.hpp>
#include <curvature/spectral/operator_ref.hpp>

/// \file
/// Leave-one-out estimators: k products draw a subspace, k measure it, and every random vector
/// tests the subspace that the others span. Epperly, Tropp, Webber, "XTrace", SIAM J. Matrix Anal.
/// Appl. 45(1), 2024.
///
/// A budget of s products pays for k = s / 2 vectors. With a requested error k begins at
/// `check_every` and doubles; nothing is thrown away. The standard error is the spread of the k
/// estimates, which are not independent: 0.7 to 0.9 of the true one for eigenvalues 1 / i^2. With a
/// budget of n products or more the answer is exact and costs n. Where k is larger than the rank of
/// A the answer is exact up to rounding, and said to be so if that is (nearly) certain: with probes
/// from a continuous distribution, or 20 more signs than the rank; with fewer there is no standard
/// error. Keeps 6 k vectors at the peak.

namespace curvature {

/// Trace of a square operator; unbiased with signs, and with other probes too, which are rescaled
/// to the sphere of the tested complement.
/// @throws ShapeError if `a` is not square; OptionError, also for a budget of a single product;
///   NumericalError if a product is not finite
Estimate xtrace(OperatorRef a, const EstimateOptions& options = {});

/// Diagonal of a square operator, unbiased; signs only.
/// @throws NotSupportedError if `a` has no adjoint, OptionError for other probes, and as `xtrace`
DiagonalEstimate xdiag(OperatorRef a, const EstimateOptions& options = {});

}  // namespace curvature
