#pragma once

#include <curvature/solvers/solver.hpp>

namespace curvature {

/// What LSMR and LSQR need.
struct LeastSquaresOptions {
  IterationOptions iteration = {};  ///< the preconditioner M multiplies from the right: A M y = b
  double damping = 0;               ///< minimises |A x - b|^2 + damping^2 |x|^2
};

/// LSMR: min |A x - b| for any A, rectangular too, by Golub-Kahan bidiagonalisation; equivalent to
/// MINRES on the normal equations, so that |A^T r| never grows.
///
/// An iteration costs a product with A and one with A^T. A square system without damping has
/// converged when its residual is small enough; if its b is not in the range, it ends with
/// `kStagnated` at a least-squares solution. A rectangular or damped one has converged also when
/// |A^T r| is at most `relative_residual` times |A| |r|: then |r| stays large. With damping the
/// residual is that of the stacked system [A; damping I] x = [b; 0], whose columns have rows + cols
/// entries. From a zero start, and without a preconditioner, the solution is the one of least norm.
/// Fong, Saunders, SIAM J. Sci. Comput. 33(5), 2011.
/// @throws OptionError for negative tolerances, limits or damping
SolverPtr lsmr(const LeastSquaresOptions& options = {});

/// LSQR: the same by conjugate gradients on the normal equations; |r| never grows. Paige, Saunders,
/// ACM Trans. Math. Softw. 8(1), 1982.
/// @throws OptionError for negative tolerances, limits or damping
SolverPtr lsqr(const LeastSquaresOptions& options = {});

}  // namespace curvature
