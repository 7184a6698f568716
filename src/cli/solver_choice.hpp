#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <curvature/model/empirical_risk.hpp>
#include <curvature/solvers/solver.hpp>

#include "cli/options.hpp"

namespace curvature::cli {

/// How a system is solved.
struct SolverOptions {
  std::string name;
  std::optional<double> tolerance;             ///< by default 1e-6, or 1e-5 in float32
  std::optional<int64_t> max_iterations;       ///< 1000 if empty
  std::string preconditioner;                  ///< empty: none
  std::optional<int64_t> preconditioner_rank;  ///< of a low-rank one
  std::optional<double> step_size;
};

/// Names that `--solver` and `--preconditioner` know.
std::vector<std::string> solver_names();
std::vector<std::string> preconditioner_names();

/// The relative residual that is asked for.
double tolerance_of(const SolverOptions& options, at::ScalarType dtype);
/// The largest number of iterations of a column; 0 for the direct solver.
int64_t max_iterations_of(const SolverOptions& options);
/// Bytes of the vectors and matrices of a solve, its preconditioner's included.
int64_t memory_of(const SolverOptions& options, const at::Tensor& rhs);
/// Products that making the preconditioner takes, for `size` parameters.
int64_t products_of_preconditioner(const SolverOptions& options, int64_t size);

/// @throws OptionError if options do not go together
void check_solver_options(const SolverOptions& options, const OperatorOptions& choice);

/// The solver for the operator that `choice` names, on `risk`.
SolverPtr make_solver(const SolverOptions& options, const EmpiricalRisk& risk,
                      const OperatorOptions& choice, const ProblemOptions& problem,
                      const Observer& observer);

}  // namespace curvature::cli
