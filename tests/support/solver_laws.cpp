#include "support/solver_laws.hpp"

#include <cmath>
#include <limits>

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <curvature/core/error.hpp>
#include <curvature/core/random.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/function_operator.hpp>

#include "support/dense_operator.hpp"
#include "support/operator_laws.hpp"

namespace curvature::testing {

at::Tensor true_residuals(const at::Tensor& matrix, const at::Tensor& x, const at::Tensor& b) {
  const at::Tensor residual = b - matrix.matmul(x);
  return residual.dim() == 1 ? residual.norm().unsqueeze(0) : residual.norm(2, {0});
}

at::Tensor normal_matrix(int64_t rows, int64_t columns, uint64_t seed) {
  return RandomSource(seed).normal(0, columns, rows).t().contiguous().to(test_device());
}

namespace {

struct System {
  std::string name;
  at::Tensor matrix;
  double condition;
};

/// n eigenvalues from 1 / condition to 1 at equal ratios.
at::Tensor geometric(double condition, int64_t n) {
  return numbers(-std::log(condition), 0, n).exp();
}

std::vector<System> systems(const SolverCase& solver) {
  const int64_t n = 60;
  std::vector<System> all = {{"identity", torch::eye(n, double_options()), 1},
                             {"one entry", torch::full({1, 1}, 3.0, double_options()), 1},
                             {"scaled down", 1e-12 * with_eigenvalues(geometric(10, n)), 10},
                             {"scaled up", 1e12 * with_eigenvalues(geometric(10, n)), 10}};
  for (const double condition : {1e1, 1e2, 1e4, 1e6, 1e8, 1e10}) {
    if (condition > solver.largest_condition) break;
    all.push_back({"condition " + std::to_string(condition),
                   with_eigenvalues(geometric(condition, n)), condition});
  }
  const at::Tensor ones = torch::ones({n / 3}, double_options());
  all.push_back({"clusters",
                 with_eigenvalues(torch::cat({ones + 1e-3 * numbers(0, 1, n / 3),
                                              5 * ones + 1e-3 * numbers(0, 1, n / 3), 20 * ones})),
                 20});
  all.push_back({"one outlier",
                 with_eigenvalues(torch::cat({numbers(1, 2, n - 1), numbers(50, 50, 1)})), 50});
  if (solver.largest_condition >= 1e3) {
    all.push_back({"step",
                   with_eigenvalues(torch::cat({numbers(1, 1, n / 2), numbers(1e-3, 1e-3, n / 2)})),
                   1e3});
    all.push_back({"Laplacian", laplacian(n), 4 / std::pow(M_PI / double(n + 1), 2)});
  }
  if (solver.indefinite) {
    all.push_back({"indefinite",
                   with_eigenvalues(torch::cat({numbers(-1, -0.1, n / 2), numbers(0.2, 2, n / 2)})),
                   20});
    all.push_back({"negative definite", -laplacian(10), 50});
    all.push_back({"one negative",
                   with_eigenvalues(torch::cat({numbers(-1e-2, -1e-2, 1), numbers(1, 2, n - 1)})),
                   200});
  }
  return all;
}

/// Solves for `b` and checks that the report tells the truth.
Solution checked_solve(const SolverPtr& solver, const DenseOperator& a, const at::Tensor& b,
                       const at::Tensor& start = {}) {
  const int64_t before = a.products();
  const at::Tensor b_before = b.clone();
  const Solution solution = solver->solve(a, b, start);
  const SolveReport& report = solution.report;
  const auto num_columns = static_cast<size_t>(b.dim() == 1 ? 1 : b.size(1));
  BOOST_TEST(torch::equal(b, b_before));
  BOOST_TEST(!solution.x.requires_grad());
  BOOST_TEST((solution.x.scalar_type() == b.scalar_type()));
  BOOST_TEST(solution.x.sizes() == b.sizes());
  BOOST_TEST(report.products == a.products() - before);
  BOOST_TEST(report.terminations.size() == num_columns);
  BOOST_TEST(report.residuals.size() == num_columns);
  BOOST_TEST(report.relative_residuals.size() == num_columns);
  const at::Tensor residuals =
      true_residuals(a.matrix().to(at::kDouble), solution.x.to(at::kDouble), b.to(at::kDouble));
  const double unit = b.scalar_type() == at::kDouble ? 1e-13 : 1e-5;
  const double scale =
      a.matrix().norm().item<double>() * solution.x.norm().item<double>() + b.norm().item<double>();
  BOOST_TEST(close(torch::tensor(report.residuals, at::kDouble), residuals.to(at::kCPU),
                   {1e-3, unit * scale}));
  return solution;
}

bool is(const SolveReport& report, Termination termination) {
  return report.termination == termination;
}

void check_convergence(const SolverCase& solver, const System& system, int64_t num_columns) {
  BOOST_TEST_CONTEXT(system.name << ", " << num_columns << " columns") {
    const double tolerance = 1e-9;
    const DenseOperator a(system.matrix);
    const at::Tensor x = normal_matrix(a.cols(), num_columns);
    const at::Tensor b = system.matrix.matmul(x);
    const SolverPtr method =
        solver.make({.relative_residual = tolerance, .max_iterations = solver.iterations});
    const Solution solution = checked_solve(method, a, b);
    BOOST_TEST(is(solution.report, Termination::kConverged));
    for (const double residual : solution.report.relative_residuals) {
      BOOST_TEST(residual <= tolerance);
    }
    BOOST_TEST(close(solution.x, x, {2 * tolerance * system.condition, 0}));
  }
}

void check_columns(const SolverCase& solver) {
  const int64_t n = 40;
  const double tolerance = 1e-8, condition = 4;  // so few iterations that rounding adds none
  const DenseOperator a(with_eigenvalues(geometric(condition, n)));
  const at::Tensor b = normal_matrix(n, 3);
  const SolverPtr method = solver.make({.relative_residual = tolerance});
  const Solution together = checked_solve(method, a, b);
  int64_t products = 0;
  for (int64_t k = 0; k < 3; ++k) {
    const Solution single = checked_solve(method, a, b.select(1, k));
    products += single.report.products;
    BOOST_TEST(close(together.x.select(1, k), single.x, {2 * tolerance * condition, 0}));
  }
  BOOST_TEST(together.report.products <= products);

  // A zero column, the solution of an easy one and equal columns cost nothing extra.
  const at::Tensor zero = torch::zeros({n, 1}, double_options());
  const Solution with_zero = checked_solve(method, a, torch::cat({b, zero}, 1));
  BOOST_TEST(with_zero.x.select(1, 3).norm().item<double>() == 0);
  BOOST_TEST(with_zero.report.relative_residuals[3] == 0);
  BOOST_TEST(with_zero.report.products == together.report.products);
  BOOST_TEST(is(with_zero.report, Termination::kConverged));
  const Solution twice = checked_solve(method, a, torch::cat({b, b.narrow(1, 0, 1)}, 1));
  BOOST_TEST(is(twice.report, Termination::kConverged));
  BOOST_TEST(close(twice.x.select(1, 3), twice.x.select(1, 0), {1e-7, 0}));

  const Solution only_zeros = checked_solve(method, a, zero, torch::ones({n, 1}, double_options()));
  BOOST_TEST(only_zeros.x.norm().item<double>() == 0);
  BOOST_TEST(method->solve(a, torch::zeros({n, 0}, double_options())).x.sizes() ==
             c10::IntArrayRef({n, 0}));
}

void check_start_and_limits(const SolverCase& solver) {
  const int64_t n = 40;
  const at::Tensor matrix = with_eigenvalues(geometric(50, n));
  const DenseOperator a(matrix);
  const at::Tensor x = normal_matrix(n, 2), b = matrix.matmul(x);
  const SolverPtr method = solver.make({.relative_residual = 1e-6});
  const Solution cold = checked_solve(method, a, b);
  const Solution warm = checked_solve(method, a, b, x);
  BOOST_TEST(warm.report.iterations == 0);
  BOOST_TEST(warm.report.products <= cold.report.products / 2);
  BOOST_TEST(is(warm.report, Termination::kConverged));
  const Solution near = checked_solve(method, a, b, x + 1e-4 * normal_matrix(n, 2, 7));
  BOOST_TEST(near.report.iterations < cold.report.iterations);

  for (const int64_t limit : {0, 1, 3}) {
    const Solution stopped =
        checked_solve(solver.make({.relative_residual = 1e-14, .max_iterations = limit}), a, b);
    BOOST_TEST(stopped.report.iterations == limit);
    BOOST_TEST(is(stopped.report, Termination::kMaxIterations));
  }
  const Solution absolute = checked_solve(
      solver.make({.relative_residual = 0, .absolute_residual = 1e-2 * b.norm().item<double>()}), a,
      b);
  BOOST_TEST(is(absolute.report, Termination::kConverged));
  BOOST_TEST(absolute.report.iterations < cold.report.iterations);
  BOOST_TEST(absolute.report.iterations > 0);

  const Solution again = checked_solve(method, a, b);
  BOOST_TEST(torch::equal(again.x, cold.x));

  // More than the numbers can hold is not promised: the iteration ends.
  const Solution most =
      checked_solve(solver.make({.relative_residual = 1e-18, .max_iterations = 5000}), a, b);
  BOOST_TEST(!is(most.report, Termination::kConverged));
  BOOST_TEST(most.report.relative_residuals[0] < 1e-12);
}

void check_preconditioner(const SolverCase& solver) {
  const int64_t n = 40;
  const at::Tensor eigenvalues = geometric(50, n);
  const DenseOperator a(with_eigenvalues(eigenvalues));
  const at::Tensor b = normal_matrix(n, 2);
  const OperatorPtr exact =
      dense(with_eigenvalues(eigenvalues.reciprocal()), Symmetry::kPositiveDefinite);
  const Solution plain = checked_solve(solver.make({.relative_residual = 1e-9}), a, b);
  const Solution preconditioned =
      checked_solve(solver.make({.relative_residual = 1e-9, .preconditioner = exact}), a, b);
  BOOST_TEST(is(preconditioned.report, Termination::kConverged));
  BOOST_TEST(close(preconditioned.x, plain.x, {1e-6, 0}));
  BOOST_TEST(preconditioned.report.iterations <= 2);
  BOOST_TEST(preconditioned.report.iterations < plain.report.iterations);

  const OperatorPtr rough =
      dense(with_eigenvalues((eigenvalues + 0.05).reciprocal()), Symmetry::kPositiveDefinite);
  const Solution helped =
      checked_solve(solver.make({.relative_residual = 1e-9, .preconditioner = rough}), a, b);
  BOOST_TEST(is(helped.report, Termination::kConverged));
  BOOST_TEST(close(helped.x, plain.x, {1e-6, 0}));
  BOOST_TEST(helped.report.iterations < plain.report.iterations);
}

void check_singular(const SolverCase& solver) {
  const int64_t n = 40;
  const at::Tensor matrix = with_eigenvalues(
      torch::cat({torch::zeros({n / 4}, double_options()), numbers(0.5, 5, n - n / 4)}));
  const DenseOperator a(matrix);
  const at::Tensor b = matrix.matmul(normal_matrix(n, 2));
  const SolverPtr method = solver.make({.relative_residual = 1e-9, .max_iterations = 3000});
  const Solution consistent = checked_solve(method, a, b);
  BOOST_TEST(is(consistent.report, Termination::kConverged));
  // The start has no part in the null space, so the solution has none: the one of least norm.
  BOOST_TEST(close(consistent.x, torch::linalg_pinv(matrix, 1e-8, true).matmul(b), {1e-7, 0}));

  const Solution inconsistent = checked_solve(
      solver.make({.relative_residual = 1e-9, .max_iterations = 300}), a, normal_matrix(n, 2, 9));
  BOOST_TEST(!is(inconsistent.report, Termination::kConverged));
  BOOST_TEST(torch::isfinite(inconsistent.x).all().item<bool>());

  const DenseOperator zero(torch::zeros({n, n}, double_options()));
  if (solver.name == "neumann") return;  // has no largest eigenvalue to go by
  const Solution of_zero = checked_solve(method, zero, normal_matrix(n, 2));
  BOOST_TEST(!is(of_zero.report, Termination::kConverged));
  BOOST_TEST(torch::isfinite(of_zero.x).all().item<bool>());
}

void check_float32(const SolverCase& solver) {
  const int64_t n = 60;
  const at::Tensor matrix = with_eigenvalues(geometric(30, n)).to(at::kFloat);
  const DenseOperator a(matrix);
  const at::Tensor b = normal_matrix(n, 2).to(at::kFloat);
  const Solution solution = checked_solve(solver.make({.relative_residual = 1e-5}), a, b);
  BOOST_TEST(is(solution.report, Termination::kConverged));
  const Solution most =
      checked_solve(solver.make({.relative_residual = 1e-12, .max_iterations = 2000}), a, b);
  BOOST_TEST(!is(most.report, Termination::kConverged));
  BOOST_TEST(most.report.relative_residuals[0] < 1e-5);
}

/// Squares of such numbers overflow or vanish.
void check_extreme_numbers(const SolverCase& solver) {
  const int64_t n = 20;
  const at::Tensor b = normal_matrix(n, 1);
  for (const auto& [dtype, scales] :
       {std::pair(at::kDouble, std::vector<double>{1e160, 1e-170}), {at::kFloat, {1e30, 1e-30}}}) {
    const DenseOperator a(with_eigenvalues(geometric(5, n)).to(dtype));
    const SolverPtr method = solver.make({.relative_residual = 1e-5});
    const at::Tensor ordinary = b.to(dtype);
    const at::Tensor x = method->solve(a, ordinary).x;
    for (const double scale : scales) {
      const Solution both =
          method->solve(a, torch::cat({ordinary, ordinary * scale, ordinary * 0}, 1));
      BOOST_TEST(is(both.report, Termination::kConverged));
      BOOST_TEST(close(both.x.select(1, 1) / scale, x.select(1, 0), {1e-4, 0}));
      BOOST_TEST(both.report.relative_residuals[1] <= 1e-5);
      BOOST_TEST(both.report.relative_residuals[1] > 0);
      const double length = ordinary.norm().item<double>() * scale;
      BOOST_TEST(both.report.residuals[1] / length == both.report.relative_residuals[1],
                 boost::test_tools::tolerance(1e-6));

      const Solution rough =
          solver.make({.relative_residual = 0, .absolute_residual = 0.1 * length})
              ->solve(a, ordinary * scale, x * scale + x * scale);
      BOOST_TEST(is(rough.report, Termination::kConverged));
      BOOST_TEST(rough.report.residuals[0] <= 0.1 * length);
      BOOST_TEST(rough.report.iterations > 0);
    }
  }
}

void check_empty(const SolverCase& solver) {
  const OperatorPtr a = dense(torch::zeros({0, 0}, double_options()), Symmetry::kPositiveDefinite);
  const Solution solution = solve(a, torch::zeros({0, 2}, double_options()), solver.make({}));
  BOOST_TEST(solution.x.sizes() == c10::IntArrayRef({0, 2}));
  BOOST_TEST(is(solution.report, Termination::kConverged));
  BOOST_TEST(solution.report.residuals == std::vector<double>(2), boost::test_tools::per_element());
}

void check_broken_numbers(const SolverCase& solver) {
  const int64_t n = 20;
  const at::Tensor matrix = laplacian(n), b = normal_matrix(n, 1).squeeze(1);
  for (const int broken_product : {0, 3}) {
    int count = 0;
    const OperatorPtr a = function_operator(
        {.domain = Space::flat(n),
         .range = Space::flat(n),
         .device = test_device(),
         .symmetry = Symmetry::kSymmetric},
        [&](const at::Tensor& x) {
          const double factor =
              count++ == broken_product ? std::numeric_limits<double>::quiet_NaN() : 1.0;
          return matrix.matmul(x) * factor;
        });
    try {
      const Solution solution = solve(a, b, solver.make({}));
      BOOST_TEST(is(solution.report, Termination::kNonFinite));
    } catch (const NumericalError&) {
      BOOST_TEST(solver.name == "neumann");  // the estimate of its step size broke
    }
  }
}

void check_arguments(const SolverCase& solver) {
  const OperatorPtr a = dense(laplacian(5), Symmetry::kPositiveDefinite);
  const SolverPtr method = solver.make({});
  const auto options = double_options();
  BOOST_CHECK_THROW(solve(a, torch::zeros({4}, options), method), ShapeError);
  BOOST_CHECK_THROW(solve(a, torch::zeros({5, 1, 1}, options), method), ShapeError);
  BOOST_CHECK_THROW(solve(a, torch::zeros({5}, options.dtype(at::kFloat)), method),
                    DtypeDeviceError);
  BOOST_CHECK_THROW(solve(a, torch::full({5}, NAN, options), method), DataError);
  BOOST_CHECK_THROW(solve(a, torch::ones({5}, options), method, torch::ones({4}, options)),
                    ShapeError);
  BOOST_CHECK_THROW(solve(a, torch::ones({5}, options), method, torch::ones({5, 1}, options)),
                    ShapeError);
  BOOST_CHECK_THROW(solve(nullptr, torch::ones({5}, options), method), OptionError);
  BOOST_CHECK_THROW(solve(a, torch::ones({5}, options), nullptr), OptionError);
  BOOST_CHECK_THROW(solver.make({.relative_residual = -1}), OptionError);
  BOOST_CHECK_THROW(solver.make({.max_iterations = -1}), OptionError);
  const OperatorPtr smaller = dense(laplacian(4), Symmetry::kPositiveDefinite);
  BOOST_CHECK_THROW(solve(a, torch::ones({5}, options), solver.make({.preconditioner = smaller})),
                    ShapeError);
  if (solver.needs_symmetry) {
    const OperatorPtr general = dense(normal_matrix(5, 5));
    BOOST_CHECK_THROW(solve(general, torch::ones({5}, options), method), NotSupportedError);
  }
}

void check_observer(const SolverCase& solver) {
  const OperatorPtr a = dense(with_eigenvalues(geometric(50, 30)), Symmetry::kPositiveDefinite);
  const at::Tensor b = normal_matrix(30, 2);
  int64_t calls = 0;
  const Solution solution = solve(a, b, solver.make({.observer = [&](const Progress& progress) {
    BOOST_TEST(progress.done == ++calls);
    BOOST_TEST(!progress.task.empty());
  }}));
  BOOST_TEST(calls == static_cast<int64_t>(solution.report.history.size()));
  BOOST_TEST(calls >= solution.report.iterations);
  BOOST_TEST(solution.report.history.back() <= 1e-6);
  struct Cancelled {};
  BOOST_CHECK_THROW(
      solve(a, b, solver.make({.observer = [](const Progress&) { throw Cancelled(); }})),
      Cancelled);
}

void check_inverse(const SolverCase& solver) {
  const at::Tensor matrix = with_eigenvalues(geometric(20, 12));
  const OperatorPtr a = std::make_shared<DenseOperator>(matrix, Symmetry::kPositiveDefinite);
  int solves = 0;
  const OperatorPtr inverted =
      inverse(a, solver.make({.relative_residual = 1e-13, .max_iterations = 2000}),
              [&](const SolveReport& report) {
                ++solves;
                if (report.termination == Termination::kNonFinite) throw DataError("not finite");
              });
  BOOST_TEST((inverted->spec().symmetry == Symmetry::kPositiveDefinite));
  BOOST_TEST((inverse(inverted) == a));
  inverted->apply(torch::ones({12}, double_options()));
  BOOST_TEST(solves == 1);
  check_operator_laws(
      *inverse(a, solver.make({.relative_residual = 1e-13, .max_iterations = 2000})),
      torch::linalg_inv(matrix), {.tolerance = 1e-9});
}

}  // namespace

void check_solver_laws(const SolverCase& solver) {
  for (const System& system : systems(solver)) {
    for (const int64_t num_columns : {1, 3}) check_convergence(solver, system, num_columns);
  }
  check_columns(solver);
  check_start_and_limits(solver);
  check_preconditioner(solver);
  check_singular(solver);
  check_float32(solver);
  check_extreme_numbers(solver);
  check_empty(solver);
  check_broken_numbers(solver);
  check_arguments(solver);
  check_observer(solver);
  check_inverse(solver);
}

}  // namespace curvature::testing
