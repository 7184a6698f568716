#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/solvers/direct.hpp>
#include <curvature/solvers/neumann.hpp>

#include "support/dense_operator.hpp"
#include "support/problems.hpp"
#include "support/solver_laws.hpp"

BOOST_AUTO_TEST_SUITE(neumann_test)

using namespace curvature;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(a_number_of_terms_is_the_truncated_series) {
  const int64_t n = 20;
  const at::Tensor matrix = with_eigenvalues(numbers(0.5, 3, n));
  const at::Tensor eye = torch::eye(n, double_options());
  const at::Tensor m = with_eigenvalues(numbers(0.4, 1.5, n), 5);
  const at::Tensor b = normal_matrix(n, 2);
  const double step = 0.3;
  for (const bool preconditioned : {false, true}) {
    const at::Tensor p = preconditioned ? m : eye;
    at::Tensor term = step * p.matmul(b), sum = term;
    for (int k = 0; k < 4; ++k) {
      term = term - step * p.matmul(matrix.matmul(term));
      sum = sum + term;
    }
    // Five terms: the first one is a step from zero.
    const SolverPtr solver = neumann(
        {.iteration = {.relative_residual = 0,
                       .max_iterations = 5,
                       .preconditioner =
                           preconditioned ? dense(m, Symmetry::kPositiveDefinite) : nullptr},
         .step_size = step});
    BOOST_TEST(close(solver->solve(DenseOperator(matrix), b).x, sum, {1e-12, 0}));
  }
}

BOOST_AUTO_TEST_CASE(the_rate_is_the_one_of_the_condition) {
  const int64_t n = 200;
  const double condition = 30;
  const OperatorPtr a = curvature::diagonal(numbers(1, condition, n));
  const SolveReport report =
      solve(a, normal_matrix(n, 1).squeeze(1),
            neumann({.iteration = {.relative_residual = 1e-8}, .step_size = 1 / condition}))
          .report;
  const double bound = std::log(0.9e-8) / std::log(1 - 1 / condition);
  BOOST_TEST(double(report.iterations) <= bound + 1);
  BOOST_TEST(double(report.iterations) > bound / 2);
  const double rate = report.history.back() / report.history[report.history.size() - 2];
  BOOST_TEST(std::abs(rate - (1 - 1 / condition)) < 1e-3);
}

BOOST_AUTO_TEST_CASE(the_step_size_is_estimated) {
  const int64_t n = 100;
  const DenseOperator a(with_eigenvalues(numbers(1, 10, n)));
  const at::Tensor b = normal_matrix(n, 1).squeeze(1);
  const SolveReport given =
      neumann({.iteration = {.relative_residual = 1e-8}, .step_size = 0.1})->solve(a, b).report;
  const int64_t before = a.products();
  const SolveReport estimated =
      neumann({.iteration = {.relative_residual = 1e-8}})->solve(a, b).report;
  BOOST_TEST(estimated.products == a.products() - before);
  BOOST_TEST(estimated.products == estimated.iterations + 12 + 1);
  BOOST_TEST(std::abs(double(estimated.iterations - given.iterations)) <
             0.1 * double(given.iterations));
}

BOOST_AUTO_TEST_CASE(divergence_is_detected_and_named) {
  const int64_t n = 30;
  const at::Tensor b = normal_matrix(n, 2);
  const DenseOperator definite(with_eigenvalues(numbers(1, 10, n)));
  const Solution too_far = neumann({.step_size = 0.5})->solve(definite, b);
  BOOST_TEST((too_far.report.termination == Termination::kNonFinite));
  BOOST_TEST(torch::isfinite(too_far.x).all().item<bool>());

  const at::Tensor matrix =
      with_eigenvalues(torch::cat({numbers(-1, -1, 1), numbers(1, 3, n - 1)}));
  const Solution indefinite = neumann({})->solve(DenseOperator(matrix), b);
  BOOST_TEST((indefinite.report.termination == Termination::kNegativeCurvature));
  const at::Tensor d = indefinite.report.negative_direction;
  BOOST_REQUIRE(d.defined());
  BOOST_TEST(std::abs(d.dot(matrix.matmul(d)).item<double>() -
                      indefinite.report.negative_curvature) < 1e-12);
  BOOST_TEST(indefinite.report.negative_curvature < 0);

  const DenseOperator negative(-with_eigenvalues(numbers(1, 10, n)));
  BOOST_CHECK_THROW(neumann({})->solve(negative, b), NumericalError);
}

BOOST_AUTO_TEST_CASE(operators_without_symmetry_need_a_step_size) {
  const int64_t n = 20;
  const at::Tensor matrix = torch::eye(n, double_options()) + 0.05 * normal_matrix(n, n);
  const OperatorPtr a = dense(matrix);
  const at::Tensor b = normal_matrix(n, 2);
  BOOST_CHECK_THROW(solve(a, b, neumann({})), NotSupportedError);
  const OperatorPtr inverted =
      inverse(a, neumann({.iteration = {.relative_residual = 1e-12}, .step_size = 1}));
  BOOST_TEST(close(inverted->apply(b), torch::linalg_solve(matrix, b), {1e-10, 0}));
  BOOST_TEST(close(inverted->apply_adjoint(b), torch::linalg_solve(matrix.t(), b), {1e-10, 0}));
  BOOST_CHECK_THROW(neumann({.step_size = 0}), OptionError);
  BOOST_CHECK_THROW(neumann({.step_size = NAN}), OptionError);
  BOOST_CHECK_THROW(neumann({.estimation_steps = 0}), OptionError);
}

BOOST_AUTO_TEST_CASE(the_stochastic_series_of_equal_operators_is_the_series) {
  const int64_t n = 20;
  const at::Tensor matrix = with_eigenvalues(numbers(0.5, 3, n));
  const OperatorPtr a = dense(matrix, Symmetry::kPositiveDefinite);
  const at::Tensor b = normal_matrix(n, 2);
  const StochasticSolution solution =
      stochastic_neumann([&](int64_t) { return a; }, b, {.num_steps = 9, .step_size = 0.3});
  const Solution series = solve(
      a, b,
      neumann({.iteration = {.relative_residual = 0, .max_iterations = 10}, .step_size = 0.3}));
  BOOST_TEST(close(solution.x, series.x, {1e-12, 0}));
  BOOST_TEST(solution.products == 18);
  BOOST_TEST(!solution.standard_error.defined());
  BOOST_TEST((solution.termination == Termination::kMaxIterations));
}

BOOST_AUTO_TEST_CASE(mini_batches_solve_for_the_whole_data) {
  // The GGN of a batch of examples, drawn anew for each step: LiSSA as influence functions use it.
  const Problem& problem = problems().front();
  const EmpiricalRisk risk = problem.risk(100);
  const OperatorPtr whole = shifted(ggn(risk), 0.5);
  std::vector<OperatorPtr> batches;
  const int64_t batch_size = 1, num_batches = problem.num_examples();
  for (int64_t i = 0; i < num_batches; ++i) {
    TensorList inputs;
    for (const at::Tensor& input : problem.inputs) {
      inputs.push_back(input.narrow(0, i * batch_size, batch_size));
    }
    const EmpiricalRisk batch(
        problem.model, problem.loss,
        tensor_dataset(inputs, problem.targets.narrow(0, i * batch_size, batch_size), batch_size),
        {});
    batches.push_back(shifted(ggn(batch), 0.5));
  }
  const at::Tensor order = RandomSource(3).uniform(0, 20000);
  const OperatorSequence sequence = [&](int64_t step) {
    return batches[static_cast<size_t>(order[step].item<double>() * double(num_batches))];
  };
  const at::Tensor b = normal_matrix(risk.space().size(), 1).squeeze(1);
  const at::Tensor exact = solve(whole, b, direct()).x;
  const StochasticSolution solution =
      stochastic_neumann(sequence, b, {.num_steps = 200, .num_repeats = 40, .step_size = 0.1});
  // The series is unbiased up to its truncation for independent batches. Within 5 standard errors
  // in the Euclidean norm, whose distribution is far narrower than that of one entry.
  const double error = (solution.x - exact).norm().item<double>();
  BOOST_TEST(error < 5 * solution.standard_error.norm().item<double>() +
                         1e-3 * exact.norm().item<double>());
  BOOST_TEST(error < 0.2 * exact.norm().item<double>());
}

BOOST_AUTO_TEST_CASE(a_diverging_stochastic_series_ends) {
  const OperatorPtr a = curvature::diagonal(numbers(1, 10, 10));
  const at::Tensor b = torch::ones({10}, double_options());
  const StochasticSolution solution = stochastic_neumann(
      [&](int64_t) { return a; }, b, {.num_steps = 1000, .num_repeats = 2, .step_size = 1});
  BOOST_TEST((solution.termination == Termination::kNonFinite));
  BOOST_TEST(solution.products < 1000);
  const OperatorSequence sequence = [&](int64_t) { return a; };
  BOOST_CHECK_THROW(stochastic_neumann({}, b, {.step_size = 1}), OptionError);
  BOOST_CHECK_THROW(stochastic_neumann(sequence, b, {}), OptionError);
  BOOST_CHECK_THROW(stochastic_neumann(sequence, b, {.num_steps = 0, .step_size = 1}), OptionError);
  BOOST_CHECK_THROW(
      stochastic_neumann(sequence, torch::ones({3}, double_options()), {.step_size = 1}),
      ShapeError);
}

BOOST_AUTO_TEST_SUITE_END()
