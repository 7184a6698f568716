#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/spectral/power_iteration.hpp>

#include "spectral/matrices.hpp"
#include "support/dense_operator.hpp"

BOOST_AUTO_TEST_SUITE(power_iteration_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// Magnitudes that stand apart, or are equal with the same sign.
std::vector<Matrix> matrices() {
  const auto full = [](double value, int64_t n) { return torch::full({n}, value, at::kDouble); };
  return {
      {"identity", torch::eye(30, double_options()), full(1, 30)},
      {"zero", torch::zeros({30, 30}, double_options()), full(0, 30)},
      {"one entry", torch::full({1, 1}, -2.5, double_options()), full(-2.5, 1)},
      prescribed("outliers", torch::cat({linspace(-1, 1, 100),
                                         torch::tensor({-9.0, 7.0, 5.0, -3.0}, at::kDouble)})),
      prescribed("copies", torch::cat({full(4, 3), full(-2, 2), linspace(-0.5, 0.5, 60)})),
      prescribed("geometric", torch::pow(0.7, torch::arange(40, at::kDouble))),
  };
}

}  // namespace

BOOST_DATA_TEST_CASE(the_largest_in_magnitude, matrices(), matrix) {
  const DenseOperator a(matrix.matrix);
  const int64_t count = std::min<int64_t>(4, a.rows());
  const EigenpairsResult result = power_iteration(a, {.count = count});
  BOOST_TEST((result.termination == Termination::kConverged));
  BOOST_TEST(result.products == a.products());
  BOOST_TEST(result.bottom.values.empty());
  BOOST_TEST(result.bottom.vectors.sizes() == c10::IntArrayRef({a.rows(), 0}));
  const at::Tensor order = matrix.eigenvalues.abs().argsort(true, 0, true).narrow(0, 0, count);
  const double norm = norm_of(matrix);
  BOOST_TEST(
      close(values_of(result.top), matrix.eigenvalues.index_select(0, order), {0, 1e-10 * norm}));
  check_pairs(a, result.top);
  for (const double residual : result.top.residuals) BOOST_TEST(residual <= 1e-8 * norm);
}

BOOST_AUTO_TEST_CASE(convergence_is_linear_with_the_ratio_of_magnitudes) {
  // From a residual of order 1 to 1e-8 at 0.8 per step: log(1e-8) / log(0.8) = 83.
  const DenseOperator a(with_eigenvalues(torch::cat({linspace(-0.8, 0.8, 99), linspace(1, 1, 1)})));
  const EigenpairsResult result = power_iteration(a);
  BOOST_TEST(result.products > 60);
  BOOST_TEST(result.products < 110);
}

BOOST_AUTO_TEST_CASE(eigenvalues_of_both_signs_and_one_magnitude_do_not_converge) {
  const DenseOperator a(with_eigenvalues(torch::tensor({1.0, -1.0, 0.5, 0.2}, at::kDouble)));
  const EigenpairsResult result = power_iteration(a, {.max_iterations = 50});
  BOOST_TEST((result.termination == Termination::kMaxIterations));
  BOOST_TEST(result.products == 50);
  check_pairs(a, result.top);
}

BOOST_AUTO_TEST_CASE(float32_operators_are_solved_in_float32) {
  const Matrix matrix = matrices()[3];
  const DenseOperator a(matrix.matrix.to(at::kFloat));
  const EigenpairsResult result = power_iteration(a, {.count = 3});
  BOOST_TEST((result.termination == Termination::kConverged));
  BOOST_TEST(close(values_of(result.top), torch::tensor({-9.0, 7.0, 5.0}, at::kDouble), {1e-5}));
  check_pairs(a, result.top, 1e-5);
}

BOOST_AUTO_TEST_CASE(same_seed_same_bits) {
  const DenseOperator a(matrices()[3].matrix);
  const auto solve = [&](uint64_t seed) {
    return power_iteration(a, {.count = 2, .random = RandomSource(seed)}).top;
  };
  BOOST_TEST(solve(1).vectors.equal(solve(1).vectors));
  BOOST_TEST(!solve(1).vectors.equal(solve(2).vectors));
}

BOOST_AUTO_TEST_CASE(the_observer_cancels_by_an_exception) {
  struct Cancelled {};
  const auto a = std::make_shared<DenseOperator>(laplacian(10));
  int64_t last = 0;
  const auto watch = [&](const Progress& progress) { last = progress.done; };
  const EigenpairsResult result = power_iteration(OperatorPtr(a), {.observer = watch});
  BOOST_TEST(last == result.products);
  const auto cancel = [](const Progress&) { throw Cancelled{}; };
  BOOST_CHECK_THROW(power_iteration(*a, {.observer = cancel}), Cancelled);
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_typed_errors) {
  const DenseOperator a(laplacian(10));
  BOOST_CHECK_THROW(power_iteration(a, {.count = 11}), OptionError);
  BOOST_CHECK_THROW(power_iteration(a, {.count = 0}), OptionError);
  BOOST_CHECK_THROW(power_iteration(a, {.tolerance = -1.0}), OptionError);
  BOOST_CHECK_THROW(power_iteration(a, {.max_iterations = 0}), OptionError);
  BOOST_CHECK_THROW(power_iteration(OperatorPtr()), OptionError);
  BOOST_CHECK_THROW(power_iteration(DenseOperator(laplacian(10), Symmetry::kGeneral)),
                    NotSupportedError);
  at::Tensor broken = laplacian(10);
  broken[3][3] = std::nan("");
  BOOST_CHECK_THROW(power_iteration(DenseOperator(broken)), NumericalError);
}

BOOST_AUTO_TEST_SUITE_END()
