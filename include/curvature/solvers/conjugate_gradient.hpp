#pragma once

#include <curvature/solvers/solver.hpp>

namespace curvature {

/// Preconditioned conjugate gradients for symmetric positive definite A (or semidefinite A and b in
/// its range).
///
/// Each column has a recurrence of its own; all columns share products. With condition number k the
/// error in the A-norm falls by 2 ((sqrt k - 1) / (sqrt k + 1))^i in i iterations. A direction d
/// with d^T A d <= 0 ends a column with `kNegativeCurvature`; its x so far is returned. The
/// residual is recomputed where the recurrence says it is small enough, and the iteration goes on
/// from there if it is not: `kStagnated` if that does not help. Keeps 3 vectors for each column
/// besides x, b and the product, and allocates no others. Hestenes, Stiefel, J. Res. Nat. Bur.
/// Stand. 49(6), 1952.
/// @throws OptionError for tolerances or limits that are negative
SolverPtr conjugate_gradient(const IterationOptions& options = {});

/// Block conjugate gradients: all columns search one common Krylov space, which finds K extreme
/// eigenvalues at once and so takes fewer products where K columns share a difficult spectrum.
///
/// Directions are kept orthonormal and dependent ones dropped, so that equal or zero columns are no
/// trouble. Iterates until the last column has converged. Keeps 3 vectors for each column besides x
/// and b. Dubrulle, Electron. Trans. Numer. Anal. 12, 2001 (variant BCGrQ); O'Leary, Linear Algebra
/// Appl. 29, 1980.
/// @throws OptionError for tolerances or limits that are negative
SolverPtr block_conjugate_gradient(const IterationOptions& options = {});

}  // namespace curvature
