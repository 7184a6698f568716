#include <cmath>
#include <functional>

#include <curvature/core/error.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/decorators.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/kronecker.hpp>
#include <curvature/spectral/matrix_function.hpp>

#include "spectral/statistics.hpp"
#include "support/dense_operator.hpp"
#include "support/operator_laws.hpp"

BOOST_AUTO_TEST_SUITE(matrix_function_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

const RandomSource kSource(33);

/// f of a symmetric matrix, through LAPACK.
at::Tensor dense_function(const at::Tensor& matrix, const ScalarFunction& f) {
  const auto [values, vectors] = torch::linalg_eigh(matrix.cpu());
  at::Tensor mapped = values.clone();
  double* data = mapped.mutable_data_ptr<double>();
  for (int64_t i = 0; i < mapped.numel(); ++i) data[i] = f(data[i]);
  return vectors.matmul(mapped.unsqueeze(1) * vectors.t()).to(test_device());
}

OperatorPtr shared(const at::Tensor& matrix, Symmetry symmetry = Symmetry::kSymmetric) {
  return std::make_shared<DenseOperator>(matrix, symmetry);
}

at::Tensor vectors(int64_t n, int64_t count, at::ScalarType dtype = at::kDouble) {
  return draw_probes(kSource, Probe::kGaussian, n, 0, count, double_options().dtype(dtype));
}

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual - expected).norm() / expected.norm()).item<double>();
}

const ScalarFunction kInverseRoot = [](double x) { return 1 / std::sqrt(x); };
const ScalarFunction kRoot = [](double x) { return std::sqrt(std::max(x, 0.0)); };
const ScalarFunction kExp = [](double x) { return std::exp(x); };
const ScalarFunction kLog = [](double x) { return std::log(x); };

}  // namespace

BOOST_AUTO_TEST_CASE(operators_of_functions_keep_the_laws) {
  const at::Tensor matrix = with_eigenvalues(torch::linspace(0.5, 4, 30, at::kDouble));
  const OperatorPtr a = shared(matrix);
  const LawOptions laws{.tolerance = 1e-8};
  check_operator_laws(*lanczos_function(a, kExp), dense_function(matrix, kExp), laws);
  check_operator_laws(*chebyshev_function(a, kExp, {.degree = 40}), dense_function(matrix, kExp),
                      laws);
  check_operator_laws(*square_root(a), dense_function(matrix, kRoot), laws);
  check_operator_laws(*inverse_square_root(a), dense_function(matrix, kInverseRoot), laws);
  check_operator_laws(*exponential(a), dense_function(matrix, kExp), laws);
  check_operator_laws(*logarithm(a), dense_function(matrix, kLog), laws);
  BOOST_TEST((square_root(a)->spec().symmetry == Symmetry::kPositiveSemidefinite));
  BOOST_TEST((inverse_square_root(a)->spec().symmetry == Symmetry::kPositiveDefinite));
  BOOST_TEST((exponential(a)->spec().symmetry == Symmetry::kPositiveDefinite));
  BOOST_TEST((logarithm(a)->spec().symmetry == Symmetry::kSymmetric));
}

BOOST_AUTO_TEST_CASE(closed_forms_cost_no_products) {
  const at::Tensor d = torch::linspace(1, 5, 12, double_options());
  const std::vector<OperatorPtr> operators{
      curvature::diagonal(d),
      kronecker({with_eigenvalues(torch::linspace(1, 2, 4, at::kDouble)),
                 with_eigenvalues(torch::linspace(2, 3, 3, at::kDouble))},
                Symmetry::kPositiveDefinite),
      dense(with_eigenvalues(torch::linspace(1, 3, 12, at::kDouble)), Symmetry::kSymmetric)};
  for (const OperatorPtr& a : operators) {
    const auto counter = std::make_shared<std::atomic<int64_t>>(0);
    const OperatorPtr counted = counting(a, counter);
    const at::Tensor matrix = materialize(*a);
    check_operator_laws(*square_root(counted), dense_function(matrix, kRoot));
    check_operator_laws(*inverse_square_root(counted), dense_function(matrix, kInverseRoot));
    check_operator_laws(*exponential(counted), dense_function(matrix, kExp));
    check_operator_laws(*logarithm(counted), dense_function(matrix, kLog));
    BOOST_TEST(counter->load() == 0);
    BOOST_TEST((inverse_square_root(counted)->spec().symmetry == Symmetry::kPositiveDefinite));
  }
  // What a diagonal holds is known to full relative precision.
  const at::Tensor wide = torch::logspace(-30, 10, 12, 10, double_options());
  BOOST_TEST(close(*logarithm(curvature::diagonal(wide))->diagonal(), wide.log()));
  BOOST_TEST(close(*inverse_square_root(curvature::diagonal(wide))->diagonal(), wide.rsqrt()));
  BOOST_CHECK_THROW(square_root(curvature::diagonal(-d)), NumericalError);
  BOOST_CHECK_THROW(logarithm(curvature::diagonal(d - 1)), NumericalError);
}

BOOST_AUTO_TEST_CASE(polynomials_are_exact_and_breakdowns_end) {
  const at::Tensor matrix = with_eigenvalues(torch::linspace(-2, 1, 50, at::kDouble));
  const DenseOperator a(matrix);
  const at::Tensor x = vectors(50, 3);
  const auto cube = [](double t) { return t * t * t - 2 * t; };
  const at::Tensor exact = matrix.matmul(matrix).matmul(matrix).matmul(x) - 2 * matrix.matmul(x);
  const FunctionProduct four = apply_function(a, cube, x, {.num_steps = 4});
  BOOST_TEST(close(four.values, exact, {1e-12}));
  BOOST_TEST(four.products == 12);
  BOOST_TEST(relative_error(apply_function(a, cube, x, {.num_steps = 3}).values, exact) > 1e-3);
  BOOST_TEST(
      close(chebyshev_function(shared(matrix), cube, {.degree = 3})->apply(x), exact, {1e-11}));

  const at::Tensor q_eigenvalues =
      torch::cat({torch::full({20}, -1.0, at::kDouble), torch::full({20}, 0.5, at::kDouble),
                  torch::full({10}, 3.0, at::kDouble)});
  const DenseOperator b(with_eigenvalues(q_eigenvalues));
  const FunctionProduct product = apply_function(b, kExp, x);
  BOOST_TEST(product.products == 9);
  BOOST_TEST((product.termination == Termination::kConverged));
  BOOST_TEST(close(product.values, dense_function(b.matrix(), kExp).matmul(x), {1e-12}));
}

BOOST_AUTO_TEST_CASE(errors_fall_geometrically) {
  // x^-1/2 on [1, 9] is singular at 0: rho = (sqrt(9) + 1) / (sqrt(9) - 1) = 2.
  const at::Tensor matrix = with_eigenvalues(torch::linspace(1, 9, 300, at::kDouble));
  const OperatorPtr a = shared(matrix);
  const at::Tensor x = vectors(300, 1).squeeze(1);
  const at::Tensor exact = dense_function(matrix, kInverseRoot).matmul(x);
  double last_lanczos = 0, last_chebyshev = 0;
  for (const int64_t m : {5, 10, 15, 20}) {
    const double lanczos = relative_error(
        apply_function(a, kInverseRoot, x, {.num_steps = m, .tolerance = 1e-16}).values, exact);
    const double chebyshev = relative_error(
        chebyshev_function(a, kInverseRoot, {.degree = m, .lower = 1.0, .upper = 9.0})->apply(x),
        exact);
    if (last_lanczos > 0) {
      BOOST_TEST(lanczos < 1.5 * last_lanczos / 32);
      BOOST_TEST(chebyshev < 1.5 * last_chebyshev / 32);
      BOOST_TEST(chebyshev > last_chebyshev / 32 / 4);  // the interval's rate, not better
    }
    // Twice the best polynomial at worst, which has one degree less here.
    BOOST_TEST(lanczos <= 4 * chebyshev);
    last_lanczos = lanczos, last_chebyshev = chebyshev;
  }
}

BOOST_AUTO_TEST_CASE(adaptive_steps_meet_the_tolerance) {
  const at::Tensor matrix = with_eigenvalues(torch::linspace(1, 20, 400, at::kDouble));
  const DenseOperator a(matrix);
  const at::Tensor x = vectors(400, 6);
  const at::Tensor exact = dense_function(matrix, kLog).matmul(x);
  int64_t last = 0;
  for (const double tolerance : {1e-3, 1e-6, 1e-9}) {
    const FunctionProduct product = apply_function(a, kLog, x, {.tolerance = tolerance});
    BOOST_TEST((product.termination == Termination::kConverged));
    BOOST_TEST(relative_error(product.values, exact) < tolerance);
    for (const double update : product.updates) BOOST_TEST(update <= tolerance);
    int64_t steps = 0;
    for (const int64_t count : product.steps) steps += count;
    BOOST_TEST(product.products == steps);
    BOOST_TEST(product.products > last);
    BOOST_TEST(product.products < 6 * 60);
    last = product.products;
  }
  const FunctionProduct cut = apply_function(a, kLog, x, {.num_steps = 5});
  BOOST_TEST((cut.termination == Termination::kMaxIterations));
  BOOST_TEST(cut.products == 30);
  BOOST_CHECK_THROW(
      logarithm(shared(matrix), {.num_steps = 5, .require_convergence = true})->apply(x),
      NumericalError);
}

BOOST_AUTO_TEST_CASE(even_functions_of_even_spectra_do_not_stop_early) {
  // Every second step changes nothing: cosh with eigenvalues +-, start in the even subspace.
  const at::Tensor half = torch::linspace(0.1, 6, 50, at::kDouble);
  const at::Tensor matrix = torch::cat({-half, half}).to(test_device()).diag();
  const at::Tensor x = torch::ones({100}, double_options());
  const FunctionProduct product = apply_function(
      DenseOperator(matrix), [](double t) { return std::cosh(t); }, x);
  BOOST_TEST(close(product.values, matrix.diagonal().cosh(), {1e-9}));
}

BOOST_AUTO_TEST_CASE(columns_are_independent_of_their_neighbours) {
  const at::Tensor matrix = with_eigenvalues(torch::linspace(0.1, 2, 60, at::kDouble));
  const DenseOperator a(matrix);
  at::Tensor x = vectors(60, 7).clone();
  x.select(1, 2).zero_();
  x.select(1, 5).mul_(1e-200);
  const FunctionProduct together = apply_function(a, kExp, x, {.columns_at_once = 7});
  const FunctionProduct alone = apply_function(a, kExp, x, {.columns_at_once = 1});
  BOOST_TEST(close(together.values, alone.values, {1e-11}));
  BOOST_TEST((together.steps == alone.steps));
  BOOST_TEST(together.steps[2] == 0);
  BOOST_TEST(together.values.select(1, 2).abs().max().item<double>() == 0);
  BOOST_TEST(relative_error(together.values.select(1, 5) * 1e200,
                            dense_function(matrix, kExp).matmul(x.select(1, 5) * 1e200)) < 1e-9);
  BOOST_TEST(apply_function(a, kExp, torch::zeros({60, 0}, double_options())).values.size(1) == 0);
  BOOST_TEST(apply_function(a, kExp, x.select(1, 0)).values.dim() == 1);
}

BOOST_AUTO_TEST_CASE(chebyshev_counts_and_bounds) {
  const at::Tensor matrix = with_eigenvalues(torch::linspace(-1, 3, 200, at::kDouble));
  const auto a = std::make_shared<DenseOperator>(matrix);
  const OperatorPtr given = chebyshev_function(a, kExp, {.degree = 25, .lower = -1., .upper = 3.});
  BOOST_TEST(a->products() == 0);
  const at::Tensor x = vectors(200, 4);
  BOOST_TEST(close(given->apply(x), dense_function(matrix, kExp).matmul(x), {1e-12}));
  BOOST_TEST(a->products() == 100);
  const OperatorPtr estimated = chebyshev_function(a, kExp, {.degree = 25});
  BOOST_TEST(a->products() == 120);
  BOOST_TEST(close(estimated->apply(x), dense_function(matrix, kExp).matmul(x), {1e-10}));
  // Semidefinite: the lower bound stays at zero, so that a root exists.
  const at::Tensor semidefinite = with_eigenvalues(torch::linspace(0, 3, 200, at::kDouble));
  const OperatorPtr root =
      chebyshev_function(shared(semidefinite, Symmetry::kPositiveSemidefinite),
                         [](double t) { return std::sqrt(t); }, {.degree = 200});
  BOOST_TEST(close(root->apply(x), dense_function(semidefinite, kRoot).matmul(x), {1e-2}));
  // One eigenvalue, n = 1, degree 0.
  BOOST_TEST(
      close(chebyshev_function(shared(2 * torch::eye(200, double_options())), kExp)->apply(x),
            std::exp(2.0) * x, {1e-10}));
  BOOST_TEST(
      close(chebyshev_function(shared(torch::zeros({200, 200}, double_options())), kExp)->apply(x),
            x, {1e-10}));
  BOOST_TEST(
      close(chebyshev_function(shared(matrix), [](double) { return 3.0; }, {.degree = 0})->apply(x),
            3 * x, {1e-14}));
}

BOOST_AUTO_TEST_CASE(float32_operators) {
  const at::Tensor matrix = with_eigenvalues(torch::linspace(1, 9, 100, at::kDouble));
  const OperatorPtr a = shared(matrix.to(at::kFloat));
  const at::Tensor x = vectors(100, 3, at::kFloat);
  const at::Tensor exact = dense_function(matrix, kInverseRoot).matmul(x.to(at::kDouble));
  const FunctionProduct product = apply_function(a, kInverseRoot, x);
  BOOST_TEST((product.values.scalar_type() == at::kFloat));
  BOOST_TEST((product.termination == Termination::kConverged));
  BOOST_TEST(relative_error(product.values.to(at::kDouble), exact) < 1e-5);
  BOOST_TEST(relative_error(chebyshev_function(a, kInverseRoot)->apply(x).to(at::kDouble), exact) <
             1e-5);
}

BOOST_AUTO_TEST_CASE(samples_have_the_covariance) {
  // x = A^+-1/2 z with z known, and x^T A^-+1 x is chi-squared with n degrees of freedom: its mean
  // over k samples is within 4 sqrt(2 n / k) of n, once in 16000.
  const int64_t n = 40, count = 300;
  const at::Tensor matrix = with_eigenvalues(torch::logspace(-2, 1, n, 10, at::kDouble));
  const OperatorPtr a = shared(matrix);
  const at::Tensor z = draw_probes(kSource, Probe::kGaussian, n, 0, count, double_options());
  const at::Tensor x = sample_by_lanczos(a, kSource, count);
  const at::Tensor y = sample_inverse_by_lanczos(a, kSource, count);
  BOOST_TEST(close(x, dense_function(matrix, kRoot).matmul(z), {1e-8}));
  BOOST_TEST(close(y, dense_function(matrix, kInverseRoot).matmul(z), {1e-8}));
  const auto size = static_cast<double>(n);
  const double deviation = 4 * std::sqrt(2 * size / static_cast<double>(count));
  const double of_x = (x * torch::linalg_solve(matrix, x, true)).sum(0).mean().item<double>();
  const double of_y = (y * matrix.matmul(y)).sum(0).mean().item<double>();
  BOOST_TEST(std::abs(of_x - size) < deviation);
  BOOST_TEST(std::abs(of_y - size) < deviation);
  // Keyed per column.
  BOOST_TEST(close(sample_inverse_by_lanczos(a, kSource, 5, 10), y.narrow(1, 10, 5), {1e-9}));
}

BOOST_AUTO_TEST_CASE(functions_know_their_domain) {
  const at::Tensor x = vectors(30, 2);
  const OperatorPtr indefinite = shared(with_eigenvalues(torch::linspace(-1, 2, 30, at::kDouble)));
  const OperatorPtr singular = shared(with_eigenvalues(
      torch::cat({torch::zeros({10}, at::kDouble), torch::linspace(1, 2, 20, at::kDouble)})));
  const OperatorPtr zero = shared(torch::zeros({30, 30}, double_options()));
  BOOST_CHECK_THROW(square_root(indefinite)->apply(x), NumericalError);
  BOOST_CHECK_THROW(inverse_square_root(indefinite)->apply(x), NumericalError);
  BOOST_CHECK_THROW(logarithm(indefinite)->apply(x), NumericalError);
  BOOST_CHECK_THROW(inverse_square_root(singular)->apply(x), NumericalError);
  BOOST_CHECK_THROW(logarithm(zero)->apply(x), NumericalError);
  BOOST_CHECK_THROW(sample_inverse_by_lanczos(singular, kSource, 1), NumericalError);
  BOOST_TEST(square_root(zero)->apply(x).abs().max().item<double>() == 0);
  BOOST_TEST(close(exponential(zero)->apply(x), x));
  const at::Tensor root = square_root(singular)->apply(square_root(singular)->apply(x));
  BOOST_TEST(close(root, singular->apply(x), {1e-7}));
  const OperatorPtr one = shared(torch::full({1, 1}, 4.0, double_options()));
  BOOST_TEST(close(square_root(one)->apply(torch::ones({1}, double_options())),
                   torch::full({1}, 2.0, double_options())));
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_typed_errors) {
  const OperatorPtr a = shared(laplacian(10));
  const OperatorPtr general = shared(laplacian(10), Symmetry::kGeneral);
  const at::Tensor x = torch::ones({10}, double_options());
  BOOST_CHECK_THROW(lanczos_function(general, kExp), NotSupportedError);
  BOOST_CHECK_THROW(chebyshev_function(general, kExp), NotSupportedError);
  BOOST_CHECK_THROW(square_root(general), NotSupportedError);
  BOOST_CHECK_THROW(square_root(OperatorPtr()), OptionError);
  BOOST_CHECK_THROW(lanczos_function(OperatorPtr(), kExp), OptionError);
  BOOST_CHECK_THROW(chebyshev_function(OperatorPtr(), kExp), OptionError);
  BOOST_CHECK_THROW(lanczos_function(a, {}), OptionError);
  BOOST_CHECK_THROW(chebyshev_function(a, {}), OptionError);
  BOOST_CHECK_THROW(lanczos_function(a, kExp, {.num_steps = 0}), OptionError);
  BOOST_CHECK_THROW(lanczos_function(a, kExp, {.tolerance = 0.0}), OptionError);
  BOOST_CHECK_THROW(lanczos_function(a, kExp, {.columns_at_once = 0}), OptionError);
  BOOST_CHECK_THROW(chebyshev_function(a, kExp, {.degree = -1}), OptionError);
  BOOST_CHECK_THROW(chebyshev_function(a, kExp, {.lower = 2.0, .upper = 1.0}), OptionError);
  BOOST_CHECK_THROW(chebyshev_function(a, kLog, {.lower = -1.0, .upper = 4.0}), NumericalError);
  BOOST_CHECK_THROW(apply_function(a, kExp, torch::ones({9}, double_options())), ShapeError);
  BOOST_CHECK_THROW(apply_function(a, kExp, x.to(at::kFloat)), DtypeDeviceError);
  BOOST_CHECK_THROW(apply_function(
                        a, [](double) { return NAN; }, x),
                    NumericalError);
  BOOST_CHECK_THROW(apply_function(a, kExp, x * NAN), NumericalError);
  struct Cancelled {};
  BOOST_CHECK_THROW(
      apply_function(a, kExp, x, {.observer = [](const Progress&) { throw Cancelled{}; }}),
      Cancelled);
}

BOOST_AUTO_TEST_SUITE_END()
