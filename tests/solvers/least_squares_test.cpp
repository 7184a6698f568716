#include <curvature/core/error.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/solvers/least_squares.hpp>

#include "support/dense_operator.hpp"
#include "support/solver_laws.hpp"

BOOST_AUTO_TEST_SUITE(least_squares_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

using Make = SolverPtr (*)(const LeastSquaresOptions&);
const std::vector<Make> kMethods = {&lsmr, &lsqr};

at::Tensor least_squares(const at::Tensor& matrix, const at::Tensor& b) {
  return torch::linalg_pinv(matrix, 1e-12).matmul(b);
}

}  // namespace

BOOST_AUTO_TEST_CASE(rectangular_systems) {
  for (const Make make : kMethods) {
    for (const auto& [rows, cols] : {std::pair(50, 20), {20, 50}, {7, 1}, {1, 7}}) {
      const at::Tensor matrix = normal_matrix(rows, cols), b = normal_matrix(rows, 3, 2);
      const Solution solution =
          solve(dense(matrix), b, make({.iteration = {.relative_residual = 1e-12}}));
      BOOST_TEST((solution.report.termination == Termination::kConverged));
      BOOST_TEST(close(solution.x, least_squares(matrix, b), {1e-9, 0}));
      BOOST_TEST(close(torch::tensor(solution.report.residuals, at::kDouble),
                       true_residuals(matrix, solution.x, b).to(at::kCPU), {1e-9, 1e-10}));
    }
  }
}

BOOST_AUTO_TEST_CASE(rank_deficient_systems_get_the_solution_of_least_norm) {
  const at::Tensor matrix = normal_matrix(30, 5).matmul(normal_matrix(5, 20, 2));
  const at::Tensor b = normal_matrix(30, 2, 3);
  for (const Make make : kMethods) {
    const Solution solution =
        solve(dense(matrix), b, make({.iteration = {.relative_residual = 1e-12}}));
    BOOST_TEST((solution.report.termination == Termination::kConverged));
    BOOST_TEST(close(solution.x, least_squares(matrix, b), {1e-8, 0}));
    BOOST_TEST(solution.report.iterations <= 10);
  }
}

BOOST_AUTO_TEST_CASE(damping_solves_the_regularised_problem) {
  const at::Tensor matrix = normal_matrix(30, 20), b = normal_matrix(30, 2, 3);
  const double damping = 0.7;
  const at::Tensor expected = torch::linalg_solve(
      matrix.t().matmul(matrix) + damping * damping * torch::eye(20, double_options()),
      matrix.t().matmul(b));
  for (const Make make : kMethods) {
    const auto solver = make({.iteration = {.relative_residual = 1e-12}, .damping = damping});
    const Solution solution = solve(dense(matrix), b, solver);
    BOOST_TEST((solution.report.termination == Termination::kConverged));
    BOOST_TEST(close(solution.x, expected, {1e-9, 0}));
    const Solution warm = solve(dense(matrix), b, solver, expected + 1e-3);
    BOOST_TEST(close(warm.x, expected, {1e-9, 0}));
  }
}

BOOST_AUTO_TEST_CASE(a_start_changes_what_is_done_and_not_what_is_reached) {
  const int64_t n = 20;
  const at::Tensor matrix = with_eigenvalues(numbers(1, 50, n)), b = normal_matrix(n, 1, 3);
  const OperatorPtr a = dense(matrix);
  const OperatorPtr jacobi = curvature::diagonal(matrix.diagonal().reciprocal());
  const double tolerance = 1e-6;
  for (const Make make : kMethods) {
    const SolverPtr solver =
        make({.iteration = {.relative_residual = tolerance, .preconditioner = jacobi}});
    const Solution far = solve(a, b, solver, torch::full({n, 1}, 1e7, double_options()));
    const double relative = ((b - matrix.matmul(far.x)).norm() / b.norm()).item<double>();
    BOOST_TEST((far.report.termination == Termination::kConverged));
    BOOST_TEST(relative <= tolerance);
    BOOST_TEST(far.report.relative_residuals[0] == relative, boost::test_tools::tolerance(1e-3));

    const Solution exact = solve(a, b, solver, torch::linalg_solve(matrix, b));
    BOOST_TEST(exact.report.iterations == 0);
    BOOST_TEST((exact.report.termination == Termination::kConverged));

    const Solution zero = solve(a, b * 0, solver, torch::ones({n, 1}, double_options()));
    BOOST_TEST(zero.report.relative_residuals[0] == 0);
    BOOST_TEST(zero.x.norm().item<double>() == 0);

    // Rounding of the start alone is more than what is asked for.
    const Solution lost = solve(a, b, solver, torch::full({n, 1}, 1e16, double_options()));
    BOOST_TEST(lost.report.relative_residuals[0] > tolerance);
    BOOST_TEST((lost.report.termination != Termination::kConverged));
  }
}

BOOST_AUTO_TEST_CASE(the_norm_that_each_minimises_never_grows) {
  const at::Tensor matrix = normal_matrix(40, 30), b = normal_matrix(40, 1, 3).squeeze(1);
  for (const Make make : kMethods) {
    double last = std::numeric_limits<double>::infinity();
    for (int64_t limit = 0; limit < 25; ++limit) {
      const at::Tensor x =
          solve(dense(matrix), b,
                make({.iteration = {.relative_residual = 1e-13, .max_iterations = limit}}))
              .x;
      const at::Tensor residual = b - matrix.matmul(x);
      const double now =
          (make == &lsmr ? matrix.t().matmul(residual) : residual).norm().item<double>();
      BOOST_TEST(now <= last * (1 + 1e-12));
      last = now;
    }
  }
}

BOOST_AUTO_TEST_CASE(the_history_is_the_true_residual) {
  const at::Tensor matrix = normal_matrix(40, 40) + 8 * torch::eye(40, double_options());
  const at::Tensor b = normal_matrix(40, 1, 3).squeeze(1);
  for (const Make make : kMethods) {
    for (const int64_t limit : {1, 2, 10}) {
      const Solution solution =
          solve(dense(matrix), b,
                make({.iteration = {.relative_residual = 1e-13, .max_iterations = limit}}));
      BOOST_TEST(close(torch::tensor({solution.report.history.back()}, at::kDouble),
                       torch::tensor(solution.report.relative_residuals, at::kDouble), {1e-9, 0}));
    }
  }
}

BOOST_AUTO_TEST_CASE(square_systems_without_symmetry_and_their_adjoints) {
  const at::Tensor matrix = normal_matrix(25, 25) + 5 * torch::eye(25, double_options());
  const at::Tensor b = normal_matrix(25, 2, 3);
  const OperatorPtr a = dense(matrix);
  const OperatorPtr m = dense(torch::linalg_inv(matrix + 0.01 * normal_matrix(25, 25, 8)));
  for (const Make make : kMethods) {
    for (const OperatorPtr& preconditioner : {OperatorPtr(), m}) {
      const OperatorPtr inverted = inverse(
          a, make({.iteration = {.relative_residual = 1e-12, .preconditioner = preconditioner}}),
          [&](const SolveReport& report) {
            BOOST_TEST((report.termination == Termination::kConverged));
            if (preconditioner != nullptr) BOOST_TEST(report.iterations <= 12);
          });
      BOOST_TEST(close(inverted->apply(b), torch::linalg_solve(matrix, b), {1e-9, 0}));
      BOOST_TEST(close(inverted->apply_adjoint(b), torch::linalg_solve(matrix.t(), b), {1e-9, 0}));
    }
  }
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_refused) {
  for (const Make make : kMethods) {
    BOOST_CHECK_THROW(make({.damping = -1}), OptionError);
    const OperatorPtr wide = dense(normal_matrix(3, 5));
    BOOST_CHECK_THROW(solve(wide, torch::ones({5}, double_options()), make({})), ShapeError);
    BOOST_CHECK_THROW(inverse(wide, make({})), ShapeError);
    const OperatorPtr m = curvature::diagonal(torch::ones({3}, double_options()));
    BOOST_CHECK_THROW(
        solve(wide, torch::ones({3}, double_options()), make({.iteration = {.preconditioner = m}})),
        ShapeError);
  }
}

BOOST_AUTO_TEST_SUITE_END()
