#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/spectral/lobpcg.hpp>

#include "spectral/matrices.hpp"
#include "support/dense_operator.hpp"

BOOST_AUTO_TEST_SUITE(lobpcg_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// Those on which steepest descent gets somewhere without a preconditioner.
std::vector<Matrix> matrices() {
  std::vector<Matrix> all;
  for (const Matrix& matrix : analytic_matrices()) {
    if (!matrix.crowded_bottom) all.push_back(matrix);
  }
  return all;
}

int64_t iterations_of(const DenseOperator& a, const LobpcgOptions& options) {
  LobpcgOptions watched = options;
  int64_t calls = 0;
  watched.observer = [&](const Progress&) { ++calls; };
  BOOST_TEST((lobpcg(a, watched).termination == Termination::kConverged));
  return calls;
}

}  // namespace

BOOST_DATA_TEST_CASE(either_end_agrees_with_closed_forms_and_lapack, matrices(), matrix) {
  const DenseOperator a(matrix.matrix);
  const int64_t count = std::min<int64_t>(4, a.rows());
  int64_t products = 0;
  for (const bool largest : {false, true}) {
    const EigenpairsResult result = lobpcg(a, {.count = count, .largest = largest});
    products += result.products;
    BOOST_TEST((result.termination == Termination::kConverged));
    BOOST_TEST(products == a.products());
    BOOST_TEST(result.dense == (count + 2 > a.rows() / 4));
    BOOST_TEST(int64_t((largest ? result.top : result.bottom).values.size()) == count);
    check_values(matrix, result);
    check_pairs(a, result.top);
    check_pairs(a, result.bottom);
  }
}

BOOST_AUTO_TEST_CASE(the_exact_inverse_converges_in_a_handful_of_iterations) {
  for (const double condition : {1e4, 1e6, 1e10}) {
    const Matrix matrix = prescribed("geometric", torch::pow(condition, -linspace(0, 1, 120)));
    const DenseOperator a(matrix.matrix);
    const OperatorPtr inverse = dense(torch::linalg_inv(a.matrix()), Symmetry::kPositiveDefinite);
    const LobpcgOptions options{.count = 4, .preconditioner = inverse, .tolerance = 1e-12};
    const EigenpairsResult result = lobpcg(a, options);
    BOOST_TEST((result.termination == Termination::kConverged));
    check_values(matrix, result, 1e-12);
    BOOST_TEST(result.products < 150);
  }
}

BOOST_AUTO_TEST_CASE(a_preconditioner_cuts_iterations) {
  // A matrix that is almost diagonal, with its diagonal as the preconditioner.
  const int64_t n = 300;
  const at::Tensor diagonal = linspace(1, 300, n).to(double_options());
  const at::Tensor matrix = diagonal.diag() + 0.1 * laplacian(n);
  const DenseOperator a(matrix);
  const OperatorPtr preconditioner = curvature::diagonal(diagonal.reciprocal());
  const int64_t plain = iterations_of(a, {.count = 3});
  const int64_t fewer = iterations_of(a, {.count = 3, .preconditioner = preconditioner});
  BOOST_TEST(4 * fewer < plain);
  check_values(by_lapack("almost diagonal", matrix),
               lobpcg(a, {.count = 3, .preconditioner = preconditioner}));
}

BOOST_AUTO_TEST_CASE(a_start_near_the_answer_saves_products) {
  const Matrix matrix = block_laplacian(20, 5);
  const DenseOperator a(matrix.matrix);
  const EigenpairsResult cold = lobpcg(a, {.count = 4});
  const at::Tensor noise = RandomSource(5).normal(0, 4, a.rows()).t().to(double_options());
  const at::Tensor start = cold.bottom.vectors + 1e-6 * noise;
  const EigenpairsResult warm = lobpcg(a, {.count = 4, .start = start});
  check_values(matrix, warm);
  BOOST_TEST(2 * warm.products < cold.products);
  // A start that is exact leaves nothing to do.
  const at::Tensor exact = std::get<1>(torch::linalg_eigh(a.matrix())).narrow(1, 0, 4).contiguous();
  check_values(matrix, lobpcg(a, {.count = 4, .start = exact}));
}

BOOST_AUTO_TEST_CASE(dependent_columns_of_the_start_are_dropped) {
  const Matrix matrix = block_laplacian(20, 5);
  const DenseOperator a(matrix.matrix);
  const at::Tensor five = RandomSource(5).normal(0, 5, a.rows()).t().to(double_options());
  const at::Tensor start = torch::cat({five, five.narrow(1, 0, 2)}, 1);
  check_values(matrix, lobpcg(a, {.count = 4, .start = start}));
  BOOST_CHECK_THROW(lobpcg(a, {.count = 6, .start = start}), OptionError);
}

BOOST_AUTO_TEST_CASE(float32_operators_are_solved_in_float32) {
  const Matrix matrix =
      prescribed("outliers", torch::cat({linspace(-8, -3, 5), linspace(0, 1, 295)}));
  const DenseOperator a(matrix.matrix.to(at::kFloat));
  const EigenpairsResult result = lobpcg(a, {.count = 5});
  BOOST_TEST((result.termination == Termination::kConverged));
  check_values(matrix, result, 2e-6);
  check_pairs(a, result.bottom, 1e-5);
  const EigenpairsResult exact = lobpcg(a, {.count = 5, .tolerance = 1e-12});
  BOOST_TEST((exact.termination != Termination::kConverged));
  BOOST_TEST(*std::max_element(exact.bottom.residuals.begin(), exact.bottom.residuals.end()) <
             1e-4);
}

BOOST_AUTO_TEST_CASE(not_converging_is_data) {
  const DenseOperator a(laplacian(400));
  const EigenpairsResult result = lobpcg(a, {.count = 5, .max_iterations = 3});
  BOOST_TEST((result.termination == Termination::kMaxIterations));
  BOOST_TEST(result.products == a.products());
  check_pairs(a, result.bottom);
  for (size_t i = 0; i < 5; ++i) {
    const double distance =
        (lapack(a.matrix()) - result.bottom.values[i]).abs().min().item<double>();
    BOOST_TEST(distance <= result.bottom.residuals[i] + 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(same_seed_same_bits_and_another_seed_the_same_values) {
  const DenseOperator a(block_laplacian(20, 5).matrix);
  const auto solve = [&](uint64_t seed) {
    return lobpcg(a, {.count = 3, .random = RandomSource(seed)}).bottom;
  };
  const Eigenpairs first = solve(1), second = solve(1), other = solve(2);
  BOOST_TEST((first.values == second.values));
  BOOST_TEST(first.vectors.equal(second.vectors));
  BOOST_TEST(!first.vectors.equal(other.vectors));
  BOOST_TEST(close(values_of(first), values_of(other), {1e-12}));
}

BOOST_AUTO_TEST_CASE(the_observer_sees_products_and_cancels_by_an_exception) {
  struct Cancelled {};
  const auto a = std::make_shared<DenseOperator>(laplacian(50));
  int64_t last = 0;
  const EigenpairsResult result =
      lobpcg(OperatorPtr(a), {.count = 3, .observer = [&](const Progress& progress) {
                                BOOST_TEST(progress.done > last);
                                last = progress.done;
                              }});
  BOOST_TEST(last == result.products);
  const auto cancel = [](const Progress&) { throw Cancelled{}; };
  BOOST_CHECK_THROW(lobpcg(*a, {.count = 3, .observer = cancel}), Cancelled);
  BOOST_TEST(at::GradMode::is_enabled());
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_typed_errors) {
  const DenseOperator a(laplacian(30));
  const std::vector<LobpcgOptions> wrong = {{.count = 31},
                                            {.count = 0},
                                            {.count = 1, .guard_vectors = -1},
                                            {.count = 1, .tolerance = 0.0},
                                            {.count = 1, .max_iterations = -1}};
  for (const LobpcgOptions& options : wrong) BOOST_CHECK_THROW(lobpcg(a, options), OptionError);
  BOOST_CHECK_THROW(lobpcg(OperatorPtr(), {.count = 1}), OptionError);
  const DenseOperator general(laplacian(30), Symmetry::kGeneral);
  BOOST_CHECK_THROW(lobpcg(general, {.count = 1}), NotSupportedError);
  const auto with = [](const at::Tensor& preconditioner, Symmetry symmetry) {
    return LobpcgOptions{.count = 1, .preconditioner = dense(preconditioner, symmetry)};
  };
  BOOST_CHECK_THROW(lobpcg(a, with(laplacian(30), Symmetry::kGeneral)), NotSupportedError);
  BOOST_CHECK_THROW(lobpcg(a, with(laplacian(29), Symmetry::kSymmetric)), ShapeError);
  BOOST_CHECK_THROW(lobpcg(a, with(laplacian(30).to(at::kFloat), Symmetry::kSymmetric)),
                    DtypeDeviceError);
  const at::Tensor block = torch::ones({30, 2}, double_options());
  BOOST_CHECK_THROW(lobpcg(a, {.count = 3, .start = block}), ShapeError);
  BOOST_CHECK_THROW(lobpcg(a, {.count = 2, .start = block.t()}), ShapeError);
  BOOST_CHECK_THROW(lobpcg(a, {.count = 2, .start = block.to(at::kFloat)}), DtypeDeviceError);
  at::Tensor broken = laplacian(30);
  broken[3][3] = std::nan("");
  BOOST_CHECK_THROW(lobpcg(DenseOperator(broken), {.count = 1}), NumericalError);
}

BOOST_AUTO_TEST_SUITE_END()
