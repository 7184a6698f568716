#include <curvature/core/error.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/low_rank.hpp>
#include <curvature/solvers/direct.hpp>

#include "support/dense_operator.hpp"
#include "support/operator_laws.hpp"
#include "support/solver_laws.hpp"

BOOST_AUTO_TEST_SUITE(direct_test)

using namespace curvature;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(dense_systems_of_every_kind) {
  const int64_t n = 30;
  const at::Tensor definite = with_eigenvalues(numbers(0.1, 5, n));
  const at::Tensor indefinite =
      with_eigenvalues(torch::cat({numbers(-3, -0.1, n / 2), numbers(0.2, 4, n / 2)}));
  const at::Tensor zero_diagonal = torch::ones({2, 2}, double_options()) -
                                   torch::eye(2, double_options());  // needs a 2-by-2 pivot
  for (const auto& [matrix, symmetry] : {std::pair(definite, Symmetry::kPositiveDefinite),
                                         {definite, Symmetry::kSymmetric},
                                         {indefinite, Symmetry::kSymmetric},
                                         {-definite, Symmetry::kSymmetric},
                                         {zero_diagonal, Symmetry::kSymmetric},
                                         {normal_matrix(n, n), Symmetry::kGeneral},
                                         {numbers(7, 7, 1).unsqueeze(0), Symmetry::kSymmetric}}) {
    const DenseOperator a(matrix, symmetry);
    const at::Tensor b = normal_matrix(a.rows(), 2);
    const Solution solution = direct()->solve(a, b);
    BOOST_TEST((solution.report.termination == Termination::kConverged));
    BOOST_TEST(solution.report.products == a.products());
    BOOST_TEST(solution.report.products == a.rows() + 2 * 2);
    BOOST_TEST(close(solution.x, torch::linalg_solve(matrix, b), {1e-10, 0}));
    BOOST_TEST(close(torch::tensor(solution.report.residuals, at::kDouble),
                     true_residuals(matrix, solution.x, b).to(at::kCPU), {1e-3, 1e-12}));
  }
}

BOOST_AUTO_TEST_CASE(ill_conditioned_systems_and_float32) {
  const int64_t n = 40;
  const at::Tensor matrix = with_eigenvalues(numbers(-23, 0, n).exp());  // condition 1e10
  const at::Tensor x = normal_matrix(n, 1).squeeze(1), b = matrix.matmul(x);
  const Solution solution = direct()->solve(DenseOperator(matrix), b);
  BOOST_TEST((solution.report.termination == Termination::kConverged));
  BOOST_TEST(close(solution.x, x, {1e-5, 0}));

  const at::Tensor easy = with_eigenvalues(numbers(0.01, 1, n)).to(at::kFloat);
  const Solution single = direct()->solve(DenseOperator(easy), b.to(at::kFloat));
  BOOST_TEST((single.x.scalar_type() == at::kFloat));
  BOOST_TEST(single.report.relative_residuals[0] < 1e-6);
}

BOOST_AUTO_TEST_CASE(closed_forms_cost_no_matrix) {
  const int64_t n = 50000;  // a matrix of this size would not fit
  const at::Tensor b = normal_matrix(n, 1).squeeze(1);
  const OperatorPtr a =
      low_rank_plus_diagonal(numbers(1, 2, n), normal_matrix(n, 2, 3), numbers(1, 2, 2));
  const Solution solution = solve(a, b, direct());
  BOOST_TEST((solution.report.termination == Termination::kConverged));
  BOOST_TEST(solution.report.products == 2);
  BOOST_TEST(close(a->apply(solution.x), b, {1e-10, 0}));
}

BOOST_AUTO_TEST_CASE(singular_and_broken_matrices_are_refused) {
  const at::Tensor b = torch::ones({4}, double_options());
  const at::Tensor zeros = torch::zeros({4, 4}, double_options());
  const at::Tensor ones = torch::ones({4, 4}, double_options());
  for (const Symmetry symmetry :
       {Symmetry::kGeneral, Symmetry::kSymmetric, Symmetry::kPositiveSemidefinite}) {
    for (const at::Tensor& matrix : {zeros, ones, ones * NAN}) {
      BOOST_CHECK_THROW(direct()->solve(DenseOperator(matrix, symmetry), b), NumericalError);
    }
  }
  BOOST_CHECK_THROW(solve(curvature::diagonal(torch::zeros({4}, double_options())), b, direct()),
                    NumericalError);
  BOOST_CHECK_THROW(solve(dense(normal_matrix(4, 5)), b, direct()), ShapeError);
  BOOST_CHECK_THROW(direct({.relative_residual = 0}), OptionError);
}

BOOST_AUTO_TEST_CASE(a_matrix_that_does_not_fit_is_refused_before_it_is_made) {
  class Opaque final : public FlatOperator {
   public:
    Opaque() : FlatOperator({.domain = Space::flat(1 << 24), .range = Space::flat(1 << 24)}) {}
    std::string describe() const override { return "Opaque"; }

   protected:
    at::Tensor apply_flat_impl(const at::Tensor& x) const override { return x.clone(); }
  };
  BOOST_CHECK_THROW(direct()->solve(Opaque(), torch::ones({1 << 24}, at::kDouble)), OptionError);
}

BOOST_AUTO_TEST_CASE(its_inverse_is_an_operator_with_an_adjoint) {
  const at::Tensor matrix = normal_matrix(8, 8) + 3 * torch::eye(8, double_options());
  class General final : public FlatOperator {  // without closed forms
   public:
    explicit General(at::Tensor matrix)
        : FlatOperator(
              {.domain = Space::flat(8), .range = Space::flat(8), .device = matrix.device()}),
          matrix_(std::move(matrix)) {}
    std::string describe() const override { return "General"; }

   protected:
    at::Tensor apply_flat_impl(const at::Tensor& x) const override { return matrix_.matmul(x); }
    at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
      return matrix_.t().matmul(y);
    }

   private:
    at::Tensor matrix_;
  };
  check_operator_laws(*inverse(std::make_shared<General>(matrix), direct()),
                      torch::linalg_inv(matrix), {.tolerance = 1e-9});
}

BOOST_AUTO_TEST_CASE(numbers_whose_squares_overflow_or_vanish_are_numbers) {
  class RoughlyInverted final : public FlatOperator {  // the identity
   public:
    RoughlyInverted()
        : FlatOperator(
              {.domain = Space::flat(6), .range = Space::flat(6), .device = test_device()}) {}
    std::string describe() const override { return "RoughlyInverted"; }
    OperatorPtr inverse() const override {
      return curvature::diagonal(torch::full({6}, 0.5, double_options()));
    }

   protected:
    at::Tensor apply_flat_impl(const at::Tensor& x) const override { return x.clone(); }
  };
  const at::Tensor matrix = laplacian(6);
  const at::Tensor b = normal_matrix(6, 1), x = torch::linalg_solve(matrix, b);
  const OperatorPtr a = std::make_shared<DenseOperator>(matrix, Symmetry::kPositiveDefinite);
  for (const double scale : {1e160, 1e-170}) {
    const Solution solution = solve(a, b * scale, direct());
    BOOST_TEST((solution.report.termination == Termination::kConverged));
    BOOST_TEST(close(solution.x / scale, x, {1e-10, 0}));
    BOOST_TEST(solution.report.relative_residuals[0] < 1e-10);

    // Half of the inverse, and its refinement, leave a quarter of any b.
    const Solution rough = solve(std::make_shared<RoughlyInverted>(), b * scale, direct());
    BOOST_TEST(rough.report.relative_residuals[0] == 0.25, boost::test_tools::tolerance(1e-12));
    BOOST_TEST((rough.report.termination == Termination::kStagnated));
  }
}

BOOST_AUTO_TEST_CASE(an_empty_system_is_solved) {
  const OperatorPtr a = std::make_shared<DenseOperator>(torch::zeros({0, 0}, double_options()),
                                                        Symmetry::kPositiveDefinite);
  const Solution solution = solve(a, torch::zeros({0}, double_options()), direct());
  BOOST_TEST(solution.x.numel() == 0);
  BOOST_TEST((solution.report.termination == Termination::kConverged));
}

BOOST_AUTO_TEST_SUITE_END()
