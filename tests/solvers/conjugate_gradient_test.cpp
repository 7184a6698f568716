#include <cmath>

#include <c10/core/impl/alloc_cpu.h>
#include <torch/torch.h>

#include <curvature/core/error.hpp>
#include <curvature/core/memory.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/solvers/conjugate_gradient.hpp>
#include <curvature/solvers/minres.hpp>

#include "support/dense_operator.hpp"
#include "support/solver_laws.hpp"

BOOST_AUTO_TEST_SUITE(conjugate_gradient_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// Iterations after which the Chebyshev bound 2 ((sqrt k - 1) / (sqrt k + 1))^i on the A-norm of
/// the error has brought the residual, larger by sqrt k at most, to `tolerance`.
int64_t chebyshev_iterations(double condition, double tolerance) {
  const double root = std::sqrt(condition);
  return static_cast<int64_t>(
      std::ceil(std::log(tolerance / (2 * root)) / std::log((root - 1) / (root + 1))));
}

}  // namespace

BOOST_AUTO_TEST_CASE(distinct_eigenvalues_bound_the_iterations) {
  const int64_t n = 60;
  for (const int64_t distinct : {1, 2, 5}) {
    const at::Tensor eigenvalues = numbers(1, 9, distinct).repeat_interleave(n / distinct);
    const DenseOperator a(with_eigenvalues(eigenvalues));
    for (const SolverPtr& solver :
         {conjugate_gradient({.relative_residual = 1e-10}), minres({.relative_residual = 1e-10}),
          block_conjugate_gradient({.relative_residual = 1e-10})}) {
      const Solution solution = solver->solve(a, normal_matrix(n, 2));
      BOOST_TEST((solution.report.termination == Termination::kConverged));
      BOOST_TEST(solution.report.iterations <= distinct);
    }
  }
}

BOOST_AUTO_TEST_CASE(the_condition_bounds_the_iterations) {
  const int64_t n = 2000;
  for (const double condition : {4.0, 100.0, 2500.0}) {
    const OperatorPtr a = curvature::diagonal(numbers(1, condition, n));
    const at::Tensor b = normal_matrix(n, 1).squeeze(1);
    const int64_t bound = chebyshev_iterations(condition, 0.9e-8);
    for (const SolverPtr& solver :
         {conjugate_gradient({.relative_residual = 1e-8}), minres({.relative_residual = 1e-8})}) {
      const SolveReport report = solve(a, b, solver).report;
      BOOST_TEST(report.iterations <= bound);
      BOOST_TEST(report.iterations > bound / 4);  // an even spectrum nearly attains it
      BOOST_TEST(report.products == report.iterations + 1);
    }
  }
}

BOOST_AUTO_TEST_CASE(the_error_in_the_norm_of_the_operator_falls) {
  const at::Tensor matrix = with_eigenvalues(numbers(0.01, 1, 40));
  const DenseOperator a(matrix);
  const at::Tensor x = normal_matrix(40, 1).squeeze(1), b = matrix.matmul(x);
  double last = x.dot(b).item<double>();
  for (int64_t limit = 1; limit < 20; ++limit) {
    const auto solver = conjugate_gradient({.relative_residual = 1e-12, .max_iterations = limit});
    const at::Tensor error = x - solver->solve(a, b).x;
    const double now = error.dot(matrix.matmul(error)).item<double>();
    BOOST_TEST(now < last);
    last = now;
  }
}

BOOST_AUTO_TEST_CASE(negative_curvature_is_reported_with_its_direction) {
  const int64_t n = 30;
  const at::Tensor matrix =
      with_eigenvalues(torch::cat({numbers(-0.5, -0.5, 1), numbers(1, 3, n - 1)}));
  const DenseOperator a(matrix);
  for (const bool block : {false, true}) {
    const SolverPtr solver = block ? block_conjugate_gradient({.relative_residual = 1e-12})
                                   : conjugate_gradient({.relative_residual = 1e-12});
    const int64_t before = a.products();
    const Solution solution = solver->solve(a, normal_matrix(n, 2));
    const SolveReport& report = solution.report;
    BOOST_TEST(report.products == a.products() - before);
    BOOST_TEST((report.termination == Termination::kNegativeCurvature));
    const at::Tensor d = report.negative_direction;
    BOOST_REQUIRE(d.defined());
    BOOST_TEST(std::abs(d.norm().item<double>() - 1) < 1e-12);
    BOOST_TEST(report.negative_curvature < 0);
    BOOST_TEST(std::abs(d.dot(matrix.matmul(d)).item<double>() - report.negative_curvature) <
               1e-12);
    BOOST_TEST(torch::isfinite(solution.x).all().item<bool>());
  }
}

BOOST_AUTO_TEST_CASE(an_indefinite_preconditioner_is_refused) {
  const OperatorPtr a = dense(laplacian(10), Symmetry::kPositiveDefinite);
  const OperatorPtr m = curvature::diagonal(torch::cat({numbers(-1, -1, 5), numbers(1, 1, 5)}));
  const at::Tensor b = torch::cat({numbers(1, 1, 5), numbers(0, 0, 5)});
  BOOST_CHECK_THROW(solve(a, b, conjugate_gradient({.preconditioner = m})), NumericalError);
  BOOST_CHECK_THROW(solve(a, b, minres({.preconditioner = m})), NumericalError);
  BOOST_CHECK_THROW(solve(a, b, block_conjugate_gradient({.preconditioner = m})), NumericalError);
}

BOOST_AUTO_TEST_CASE(a_block_takes_fewer_iterations_than_its_columns) {
  // Four small eigenvalues: a block of eight finds them at once, a column one after another.
  const int64_t n = 400;
  const at::Tensor eigenvalues = torch::cat({numbers(1e-4, 4e-4, 4), numbers(1, 2, n - 4)});
  const OperatorPtr a = curvature::diagonal(eigenvalues);
  const at::Tensor b = normal_matrix(n, 8);
  const SolveReport single = solve(a, b, conjugate_gradient({.relative_residual = 1e-9})).report;
  const SolveReport block =
      solve(a, b, block_conjugate_gradient({.relative_residual = 1e-9})).report;
  BOOST_TEST((block.termination == Termination::kConverged));
  BOOST_TEST(block.iterations * 3 <= single.iterations * 2);
  BOOST_TEST(block.products * 3 <= single.products * 2);
}

BOOST_AUTO_TEST_CASE(iterations_allocate_no_vectors) {
  const int64_t n = 100000;
  const at::Tensor diagonal = numbers(1, 100, n).to(at::kFloat);
  // An operator that answers from a buffer of its own, so that what is left is the solver's.
  const at::Tensor answer = torch::empty({n, 1}, diagonal.options());
  const OperatorPtr a = function_operator({.domain = Space::flat(n),
                                           .range = Space::flat(n),
                                           .dtype = at::kFloat,
                                           .device = test_device(),
                                           .symmetry = Symmetry::kPositiveDefinite},
                                          [&](const at::Tensor& x) {
                                            return torch::mul_out(const_cast<at::Tensor&>(answer),
                                                                  x, diagonal.unsqueeze(1));
                                          });
  const at::Tensor b = normal_matrix(n, 1).to(at::kFloat).squeeze(1);
  const auto allocated = [&](const SolverPtr& solver) {
    struct Meter final : c10::MemoryReportingInfoBase {
      int64_t bytes = 0;
      void reportMemoryUsage(void*, int64_t size, size_t, size_t, c10::Device) override {
        if (size > 1000) bytes += size;
      }
      bool memoryProfilingEnabled() const override { return true; }
    };
    const auto meter = std::make_shared<Meter>();
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
    const Solution solution = solve(a, b, solver);
    BOOST_TEST(solution.report.iterations > 1);
    return meter->bytes;
  };
  for (const auto& make : {&conjugate_gradient, &minres}) {
    const auto of = [&](int64_t iterations) {
      return allocated(make({.relative_residual = 0, .max_iterations = iterations}));
    };
    BOOST_TEST(of(3) > 0);
    BOOST_TEST(of(3) == of(30));
  }
}

BOOST_AUTO_TEST_SUITE_END()
