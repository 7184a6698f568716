#include <curvature/solvers/conjugate_gradient.hpp>
#include <curvature/solvers/least_squares.hpp>
#include <curvature/solvers/minres.hpp>
#include <curvature/solvers/neumann.hpp>

#include "support/solver_laws.hpp"

BOOST_AUTO_TEST_SUITE(solver_laws_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// Every iterative solver: a new one adds a line.
const std::vector<SolverCase>& solvers() {
  static const std::vector<SolverCase> cases = {
      {.name = "conjugate_gradient", .make = &conjugate_gradient},
      {.name = "block_conjugate_gradient",
       .make = &block_conjugate_gradient,
       .couples_columns = true},
      {.name = "minres", .make = &minres, .indefinite = true},
      {.name = "lsmr",
       .make = [](const IterationOptions& options) { return lsmr({.iteration = options}); },
       .indefinite = true,
       .largest_condition = 1e6,
       .needs_symmetry = false},
      {.name = "lsqr",
       .make = [](const IterationOptions& options) { return lsqr({.iteration = options}); },
       .indefinite = true,
       .largest_condition = 1e6,
       .needs_symmetry = false},
      {.name = "neumann",
       .make = [](const IterationOptions& options) { return neumann({.iteration = options}); },
       .largest_condition = 1e2},
  };
  return cases;
}

}  // namespace

BOOST_DATA_TEST_CASE(every_solver_keeps_the_laws, boost::unit_test::data::make(solvers())) {
  check_solver_laws(sample);
}

BOOST_AUTO_TEST_SUITE_END()
