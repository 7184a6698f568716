#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include <curvature/core/random.hpp>
#include <curvature/solvers/solver.hpp>

namespace curvature {

/// What a Neumann series needs.
struct NeumannOptions {
  IterationOptions iteration = {};  ///< `max_iterations` is the number of terms
  /// The step size a; by default the inverse of the largest eigenvalue of M A, from a few Lanczos
  /// steps (symmetric operators only).
  std::optional<double> step_size = std::nullopt;
  int64_t estimation_steps = 12;         ///< Lanczos steps of that estimate, one product each
  RandomSource random = RandomSource();  ///< of its start vector
};

/// Preconditioned Neumann series x = a sum_k (I - a M A)^k M b, which is Richardson's iteration x
/// <- x + a M (b - A x): converges if the eigenvalues of a M A lie in (0, 2), by a factor of 1 -
/// 1/k a step for condition number k. For `relative_residual` 0 exactly `max_iterations` terms
/// follow the first one.
///
/// A residual that has grown a thousandfold ends a column: with `kNegativeCurvature` if its
/// direction d has d^T A d <= 0, with `kNonFinite` else (the step is too large). Keeps 2 vectors
/// for each column besides x, b and the product.
/// @throws OptionError for negative tolerances or limits, or a step size that is not positive
SolverPtr neumann(const NeumannOptions& options = {});

/// The operator of a step: the curvature of a mini-batch.
using OperatorSequence = std::function<OperatorPtr(int64_t step)>;

/// How the stochastic series runs.
struct StochasticNeumannOptions {
  int64_t num_steps = 100;               ///< terms of a series, one product of each column each
  int64_t num_repeats = 1;               ///< independent series that are averaged
  double step_size = 0;                  ///< must be positive: about 1 / largest eigenvalue
  OperatorPtr preconditioner = nullptr;  ///< approximate inverse; null for none
  Observer observer = {};                ///< sees the steps of all repeats
};

/// What the stochastic series found.
struct StochasticSolution {
  at::Tensor x = {};               ///< mean over repeats, `[n]` or `[n, K]`
  at::Tensor standard_error = {};  ///< of each entry; undefined for a single repeat
  int64_t products = 0;            ///< columns multiplied
  /// `kMaxIterations` if all steps were made, `kNonFinite` if the series diverged.
  Termination termination = Termination::kMaxIterations;
};

/// LiSSA: x <- x + a M (b - A_t x) with a fresh operator A_t for each step, t = 0, 1, ...,
/// `num_repeats * num_steps` - 1, whose mean is the operator to invert. Damping belongs into the
/// operators (`shifted`). Ends when |x| exceeds 1e6 |a M b| num_steps. Agarwal, Bullins, Hazan,
/// JMLR 18(116), 2017.
/// @throws OptionError for counts or a step size that are not positive; ShapeError,
///   DtypeDeviceError if `b` does not fit the first operator
StochasticSolution stochastic_neumann(const OperatorSequence& operators, const at::Tensor& b,
                                      const StochasticNeumannOptions& options);

}  // namespace curvature
