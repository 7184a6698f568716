#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/core/termination.hpp>

namespace curvature {

/// What the iterative solvers have in common.
struct IterationOptions {
  /// A column has converged when |b - A x| is at most this part of |b|, or `absolute_residual`.
  double relative_residual = 1e-6;
  double absolute_residual = 0;   ///< in units of b
  int64_t max_iterations = 1000;  ///< of each column
  /// An approximate inverse of A, multiplied once an iteration; null for none. Methods for
  /// symmetric operators need it symmetric positive definite.
  OperatorPtr preconditioner = nullptr;
  Observer observer = {};  ///< sees the iterations
};

/// How a system was solved. Not converging is data: nothing throws for it.
struct SolveReport {
  Termination termination = Termination::kConverged;  ///< the worst of the columns
  std::vector<Termination> terminations = {};         ///< of each column
  int64_t iterations = 0;                             ///< of the slowest column
  int64_t products = 0;                               ///< columns multiplied, by A and A^T together
  std::vector<double> residuals = {};           ///< |b - A x| of each column, recomputed at the end
  std::vector<double> relative_residuals = {};  ///< the same divided by |b|; 0 for a zero column
  /// Largest relative residual of the columns at work after each iteration, as the recurrence has
  /// it (without a product).
  std::vector<double> history = {};
  /// A unit vector d `[n]` with d^T A d <= 0 where the method met one (the first), else undefined.
  at::Tensor negative_direction = {};
  double negative_curvature = 0;  ///< its d^T A d
};

/// A solution and how it came about.
struct Solution {
  at::Tensor x;        ///< `[n]` or `[n, K]`, as the right-hand side
  SolveReport report;  ///< one entry for each column
};

class Solver;
/// Solvers are immutable and shared.
using SolverPtr = std::shared_ptr<const Solver>;

/// A way to solve A x = b for an operator known by its products. Immutable; may be used
/// concurrently.
class Solver {
 public:
  virtual ~Solver() = default;

  /// Solves A x = b for each column of b, `[m]` or `[m, K]`, from `start` (shaped like x; zero if
  /// undefined). The columns share products as long as they need them; one that has converged costs
  /// none.
  /// @throws ShapeError, DtypeDeviceError if b or `start` do not fit; DataError if they are not
  ///   finite; NotSupportedError if the method does not apply to such an operator; NumericalError
  ///   if a preconditioner proves not to be positive definite
  Solution solve(const LinearOperator& a, const at::Tensor& b, const at::Tensor& start = {}) const;

  /// The solver for A^T x = b: the same method with the adjoint preconditioner.
  virtual SolverPtr adjoint() const = 0;

 protected:
  /// Solves for checked `b` `[m, K]` and `start` `[n, K]` (undefined: zero), K > 0, without a
  /// graph.
  virtual Solution solve_impl(const LinearOperator& a, const at::Tensor& b,
                              const at::Tensor& start) const = 0;
};

/// `solver->solve`: solves A x = b.
/// @throws OptionError for a null pointer, and what `Solver::solve` throws
Solution solve(const OperatorPtr& a, const at::Tensor& b, const SolverPtr& solver,
               const at::Tensor& start = {});

/// Sees the report of each solve.
using SolveObserver = std::function<void(const SolveReport&)>;

/// A^-1 as an operator whose products are solves; its adjoint solves with A^T. It is declared as
/// symmetric and definite as A is. How well it does so is up to the solver: `on_solve` sees each
/// report, in the thread that applies the operator, and may throw.
/// @throws OptionError for a null pointer, ShapeError if A is not square
OperatorPtr inverse(const OperatorPtr& a, SolverPtr solver, SolveObserver on_solve = {});

}  // namespace curvature
