#pragma once

#include <cstdint>

#include <curvature/solvers/solver.hpp>

namespace curvature {

/// How a direct solver judges and limits itself.
struct DirectOptions {
  /// A solution with a larger relative residual is reported as `kStagnated`; the system is too ill
  /// conditioned for its dtype.
  double relative_residual = 1e-6;
  Observer observer = {};  ///< sees the columns of the matrix
};

/// Solves without iterating: by the operator's inverse in closed form where it has one, else by a
/// dense factorisation in float64 (Cholesky where the operator is positive definite, LDL^T where it
/// is symmetric, LU otherwise), followed by one step of iterative refinement.
///
/// The dense way costs n products and O(n^3) operations, and three n-by-n matrices in float64.
/// `start` is ignored.
/// @throws OptionError if the matrices do not fit into the free memory; NumericalError if the
///   matrix is singular or not finite; ShapeError if A is not square
SolverPtr direct(const DirectOptions& options = {});

}  // namespace curvature
