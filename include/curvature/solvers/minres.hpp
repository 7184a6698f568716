#pragma once

#include <curvature/solvers/solver.hpp>

namespace curvature {

/// Minimal residuals for symmetric, possibly indefinite or singular A; the preconditioner must be
/// positive definite.
///
/// Without a preconditioner the residual never grows. If b is not in the range of A, the iteration
/// ends with `kStagnated` at a least-squares solution: where |A r| is smallest, which
/// rounding keeps above about 1e-8 |A| |r| (float64). The 2-norm
/// of the residual decides also with a preconditioner, at the cost of one more vector. Keeps 5
/// vectors for each column besides x, b and the product, and allocates no others. Paige, Saunders,
/// SIAM J. Numer. Anal. 12(4), 1975.
/// @throws OptionError for tolerances or limits that are negative
SolverPtr minres(const IterationOptions& options = {});

}  // namespace curvature
