#include <curvature/core/error.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/solvers/conjugate_gradient.hpp>
#include <curvature/solvers/preconditioner.hpp>

#include "support/dense_operator.hpp"
#include "support/operator_laws.hpp"
#include "support/solver_laws.hpp"

BOOST_AUTO_TEST_SUITE(preconditioner_test)

using namespace curvature;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(a_diagonal_is_inverted_with_its_zeros_raised) {
  const at::Tensor d = torch::tensor({4.0, -2.0, 0.0, 1e-9}, double_options());
  const at::Tensor expected =
      torch::tensor({1 / 4.0, 1 / 2.0, 1 / 4e-6, 1 / 4e-6}, double_options());
  const OperatorPtr m = diagonal_preconditioner(d, Space::flat(4));
  BOOST_TEST((m->spec().symmetry == Symmetry::kPositiveDefinite));
  check_operator_laws(*m, torch::diag(expected));
  BOOST_TEST(close(*diagonal_preconditioner(d, Space::flat(4), 1)->diagonal(),
                   torch::tensor({1 / 5.0, 1 / 3.0, 1.0, 1 / (1 + 1e-9)}, double_options())));
  BOOST_TEST(close(*diagonal_preconditioner(0 * d, Space::flat(4))->diagonal(),
                   torch::ones({4}, double_options())));
  BOOST_CHECK_THROW(diagonal_preconditioner(d, Space::flat(5)), ShapeError);
  BOOST_CHECK_THROW(diagonal_preconditioner(d * NAN, Space::flat(4)), DataError);
  BOOST_CHECK_THROW(diagonal_preconditioner(d, Space::flat(4), -1), OptionError);
}

BOOST_AUTO_TEST_CASE(it_undoes_bad_scaling) {
  const int64_t n = 60;
  const at::Tensor scale = torch::linspace(-4, 4, n, double_options()).exp();
  const at::Tensor matrix =
      scale.unsqueeze(1) * (laplacian(n) + torch::eye(n, double_options())) * scale;
  const OperatorPtr a = dense(matrix, Symmetry::kPositiveDefinite);
  const at::Tensor b = normal_matrix(n, 1).squeeze(1);
  const SolveReport plain =
      solve(a, b, conjugate_gradient({.relative_residual = 1e-8, .max_iterations = 5000})).report;
  const SolveReport helped = solve(a, b,
                                   conjugate_gradient({.relative_residual = 1e-8,
                                                       .preconditioner = diagonal_preconditioner(
                                                           matrix.diagonal(), Space::flat(n))}))
                                 .report;
  BOOST_TEST((helped.termination == Termination::kConverged));
  BOOST_TEST(helped.iterations * 3 < plain.iterations);
}

BOOST_AUTO_TEST_SUITE_END()
