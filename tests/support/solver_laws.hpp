#pragma once

#include <functional>
#include <ostream>
#include <string>

#include <ATen/core/Tensor.h>

#include <curvature/solvers/solver.hpp>

namespace curvature::testing {

/// A method and what it promises.
struct SolverCase {
  std::string name;
  std::function<SolverPtr(const IterationOptions&)> make;
  bool indefinite = false;          ///< solves indefinite systems
  bool couples_columns = false;     ///< columns share one Krylov space
  double largest_condition = 1e10;  ///< up to which it converges within `iterations`
  int64_t iterations = 20000;       ///< that may be needed there
  bool needs_symmetry = true;       ///< refuses other operators
};

inline std::ostream& operator<<(std::ostream& out, const SolverCase& solver) {
  return out << solver.name;
}

/// Checks with Boost.Test that a solver keeps its promises on matrices that know their answer:
/// identity, condition 1 to its largest, clusters, steps, indefinite spectra, singular systems
/// (consistent and not), n = 1, zero and several columns, both dtypes. Residuals are the true ones,
/// products are counted right, converged columns cost none, warm starts and preconditioners pay
/// off, limits hold, broken numbers end cleanly, wrong arguments are refused, and `inverse` keeps
/// the laws of an operator.
void check_solver_laws(const SolverCase& solver);

/// |b - A x| of each column.
at::Tensor true_residuals(const at::Tensor& matrix, const at::Tensor& x, const at::Tensor& b);

/// `rows x columns` standard normal numbers of a seed, float64 on the test device.
at::Tensor normal_matrix(int64_t rows, int64_t columns, uint64_t seed = 1);

}  // namespace curvature::testing
