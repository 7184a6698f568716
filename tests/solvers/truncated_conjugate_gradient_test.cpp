#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <curvature/core/error.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/solvers/truncated_conjugate_gradient.hpp>

#include "support/dense_operator.hpp"

BOOST_AUTO_TEST_SUITE(truncated_conjugate_gradient_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

double phi(const at::Tensor& a, const at::Tensor& b, const at::Tensor& x) {
  return (0.5 * x.dot(a.mv(x)) - b.dot(x)).item<double>();
}

double length(const at::Tensor& x) { return x.norm().item<double>(); }

}  // namespace

BOOST_AUTO_TEST_CASE(solves_a_definite_system) {
  const at::Tensor a = with_eigenvalues(numbers(1, 50, 20)), b = numbers(-1, 2, 20);
  const at::Tensor expected = at::linalg_solve(a, b);
  for (const bool preconditioned : {false, true}) {
    TruncatedCgOptions options{.relative_residual = 1e-12};
    if (preconditioned) options.preconditioner = curvature::diagonal(1 / a.diagonal());
    for (const at::Tensor& start : {at::Tensor(), numbers(3, 5, 20)}) {
      const auto result = truncated_conjugate_gradient(DenseOperator(a), b, options, start);
      BOOST_TEST((result.end == TruncatedCgEnd::kResidual));
      BOOST_TEST(close(result.iterates.back(), expected, {1e-10}));
      BOOST_TEST(result.values.back() == phi(a, b, expected), boost::test_tools::tolerance(1e-10));
    }
  }
}

BOOST_AUTO_TEST_CASE(phi_of_kept_iterates_is_that_of_the_dense_matrix_and_falls) {
  const at::Tensor a = with_eigenvalues(numbers(0.01, 100, 60)), b = numbers(-1, 2, 60);
  const DenseOperator operation(a);
  const auto result = truncated_conjugate_gradient(
      operation, b, {.max_iterations = 30, .snapshot_growth = 1.3}, numbers(0, 0.1, 60));
  BOOST_TEST((result.end == TruncatedCgEnd::kMaxIterations));
  BOOST_TEST(result.iterations == 30);
  BOOST_TEST(operation.products() == 31);
  // ceil(1.3^j) = 1, 2, 3, 4, 5, 7, 9, 11, 14, 18, 24, and the last one.
  BOOST_TEST(result.iterates.size() == 12U);
  for (size_t i = 0; i < result.iterates.size(); ++i) {
    BOOST_TEST(result.values[i] == phi(a, b, result.iterates[i]),
               boost::test_tools::tolerance(1e-9));
    if (i > 0) BOOST_TEST(result.values[i] < result.values[i - 1]);
  }
}

BOOST_AUTO_TEST_CASE(ends_where_progress_is_small) {
  const at::Tensor a = with_eigenvalues(numbers(1, 4, 40)), b = numbers(-1, 2, 40);
  const auto values = [&](int64_t iterations) {
    return truncated_conjugate_gradient(DenseOperator(a), b, {.max_iterations = iterations})
        .values.back();
  };
  const auto result = truncated_conjugate_gradient(DenseOperator(a), b, {.progress = 5e-4});
  BOOST_TEST((result.end == TruncatedCgEnd::kProgress));
  // The criterion by hand: the first i > 10 with (phi_i - phi_{i - 10}) / phi_i < 10 eps.
  int64_t i = 11;
  while (!((values(i) - values(i - 10)) / values(i) < 10 * 5e-4)) ++i;
  BOOST_TEST(result.iterations == i);
}

BOOST_AUTO_TEST_CASE(stops_at_the_boundary_of_the_ball) {
  const at::Tensor a = with_eigenvalues(numbers(1, 50, 20)), b = numbers(-1, 2, 20);
  const double whole = length(at::linalg_solve(a, b));
  for (const double part : {1e-3, 0.3, 0.9}) {
    const auto result = truncated_conjugate_gradient(
        DenseOperator(a), b, {.relative_residual = 1e-12, .radius = part * whole});
    BOOST_TEST((result.end == TruncatedCgEnd::kBoundary));
    BOOST_TEST(length(result.iterates.back()) == part * whole, boost::test_tools::tolerance(1e-12));
    BOOST_TEST(result.values.back() == phi(a, b, result.iterates.back()),
               boost::test_tools::tolerance(1e-10));
    // At least as good as the best step along the gradient (the Cauchy point).
    const double cauchy =
        std::min(b.dot(b).item<double>() / b.dot(a.mv(b)).item<double>(), part * whole / length(b));
    BOOST_TEST(result.values.back() <= phi(a, b, cauchy * b) + 1e-14);
  }
  const auto inside = truncated_conjugate_gradient(
      DenseOperator(a), b, {.relative_residual = 1e-12, .radius = 1.01 * whole});
  BOOST_TEST((inside.end == TruncatedCgEnd::kResidual));
}

BOOST_AUTO_TEST_CASE(negative_curvature) {
  const at::Tensor a = with_eigenvalues(numbers(-1, 3, 20)), b = numbers(-1, 2, 20);
  const auto bounded =
      truncated_conjugate_gradient(DenseOperator(a), b, {.relative_residual = 1e-10, .radius = 50});
  BOOST_TEST((bounded.end == TruncatedCgEnd::kNegativeCurvature));
  BOOST_TEST(length(bounded.iterates.back()) == 50, boost::test_tools::tolerance(1e-12));
  const auto free = truncated_conjugate_gradient(DenseOperator(a), b, {});
  BOOST_TEST((free.end == TruncatedCgEnd::kNegativeCurvature));
  BOOST_TEST(free.iterates.size() == 1U);
  BOOST_TEST(free.values.back() == phi(a, b, free.iterates.back()),
             boost::test_tools::tolerance(1e-9));
  // With the first direction already: x stays at zero.
  const at::Tensor down = -torch::eye(3, double_options());
  const auto none = truncated_conjugate_gradient(DenseOperator(down), numbers(1, 2, 3), {});
  BOOST_TEST(length(none.iterates.back()) == 0);
  BOOST_TEST(none.iterations == 0);
}

BOOST_AUTO_TEST_CASE(nothing_to_do_and_wrong_use) {
  const at::Tensor a = with_eigenvalues(numbers(1, 2, 4));
  const DenseOperator operation(a);
  const at::Tensor b = numbers(1, 2, 4);
  const auto zero =
      truncated_conjugate_gradient(operation, torch::zeros({4}, double_options()), {});
  BOOST_TEST((zero.end == TruncatedCgEnd::kResidual));
  BOOST_TEST(length(zero.iterates.back()) == 0);
  const auto solve = [&](const TruncatedCgOptions& options, const at::Tensor& start = {}) {
    return truncated_conjugate_gradient(operation, b, options, start);
  };
  BOOST_CHECK_THROW(solve({.max_iterations = -1}), OptionError);
  BOOST_CHECK_THROW(solve({.radius = 0}), OptionError);
  BOOST_CHECK_THROW(solve({.radius = 1}, b), OptionError);
  BOOST_CHECK_THROW(solve({}, numbers(1, 2, 3)), ShapeError);
  BOOST_CHECK_THROW(truncated_conjugate_gradient(operation, numbers(1, 2, 3), {}), ShapeError);
  BOOST_CHECK_THROW(truncated_conjugate_gradient(DenseOperator(a, Symmetry::kGeneral), b, {}),
                    NotSupportedError);
  BOOST_CHECK_THROW(
      solve({.preconditioner = curvature::diagonal(-torch::ones({4}, double_options()))}),
      NumericalError);
  BOOST_CHECK_THROW(truncated_conjugate_gradient(DenseOperator(a * INFINITY), b, {}),
                    NumericalError);
}

BOOST_AUTO_TEST_SUITE_END()
