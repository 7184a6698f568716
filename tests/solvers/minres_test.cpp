#include <curvature/operators/diagonal.hpp>
#include <curvature/solvers/minres.hpp>

#include "support/dense_operator.hpp"
#include "support/solver_laws.hpp"

BOOST_AUTO_TEST_SUITE(minres_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

at::Tensor indefinite(int64_t n) {
  return torch::cat({torch::linspace(-2, -0.1, n / 2, double_options()),
                     torch::linspace(0.3, 5, n - n / 2, double_options())});
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_residual_is_the_smallest_of_the_krylov_space) {
  const int64_t n = 30;
  const at::Tensor matrix = with_eigenvalues(indefinite(n));
  const DenseOperator a(matrix);
  const at::Tensor b = normal_matrix(n, 1).squeeze(1);
  TensorList powers = {b / b.norm()};
  for (int64_t k = 1; k <= 8; ++k) {
    const at::Tensor krylov = std::get<0>(torch::linalg_qr(torch::stack(powers, 1)));
    const at::Tensor image = matrix.matmul(krylov);
    const at::Tensor y = std::get<0>(torch::linalg_lstsq(image, b.unsqueeze(1)));
    const at::Tensor best = krylov.matmul(y).squeeze(1);
    const Solution solution =
        minres({.relative_residual = 1e-14, .max_iterations = k})->solve(a, b);
    BOOST_TEST(close(solution.x, best, {1e-8, 0}));
    powers.push_back(matrix.matmul(powers.back()));
    powers.back() = powers.back() / powers.back().norm();
  }
}

BOOST_AUTO_TEST_CASE(the_reported_history_never_grows_and_is_the_true_residual) {
  const int64_t n = 50;
  const at::Tensor matrix = with_eigenvalues(indefinite(n));
  const DenseOperator a(matrix);
  const at::Tensor b = normal_matrix(n, 1).squeeze(1);
  const SolveReport report = minres({.relative_residual = 1e-10})->solve(a, b).report;
  BOOST_TEST((report.termination == Termination::kConverged));
  for (size_t i = 1; i < report.history.size(); ++i) {
    BOOST_TEST(report.history[i] <= report.history[i - 1]);
  }
  const at::Tensor scale = torch::linspace(0.5, 2, n, double_options());
  for (const OperatorPtr& m : {OperatorPtr(), curvature::diagonal(scale)}) {
    for (const int64_t limit : {1, 5, 20}) {
      const Solution solution =
          minres({.relative_residual = 1e-12, .max_iterations = limit, .preconditioner = m})
              ->solve(a, b);
      BOOST_TEST(close(torch::tensor({solution.report.history.back()}, at::kDouble),
                       torch::tensor(solution.report.relative_residuals, at::kDouble), {1e-9, 0}));
    }
  }
}

BOOST_AUTO_TEST_CASE(an_inconsistent_system_ends_at_a_least_squares_solution) {
  const int64_t n = 40;
  const at::Tensor matrix =
      with_eigenvalues(torch::cat({torch::zeros({10}, double_options()), indefinite(n - 10)}));
  const DenseOperator a(matrix);
  const at::Tensor b = normal_matrix(n, 2);
  const Solution solution = minres({.relative_residual = 1e-10})->solve(a, b);
  BOOST_TEST((solution.report.termination == Termination::kStagnated));
  BOOST_TEST(solution.report.iterations < 100);
  const at::Tensor residual = b - matrix.matmul(solution.x);
  const double norm = 5;  // of A
  BOOST_TEST(matrix.matmul(residual).norm().item<double>() <
             1e-7 * norm * residual.norm().item<double>());
  BOOST_TEST(solution.x.norm().item<double>() < 100 * b.norm().item<double>());
}

BOOST_AUTO_TEST_SUITE_END()
