#include <cmath>
#include <limits>

#include <curvature/core/error.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/spectral/density.hpp>
#include <curvature/spectral/hutchinson.hpp>
#include <curvature/spectral/stochastic_lanczos.hpp>

#include "spectral/statistics.hpp"
#include "support/dense_operator.hpp"

BOOST_AUTO_TEST_SUITE(stochastic_lanczos_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

const RandomSource kSource(21);

/// Variance of z^T B z for signs and a symmetric B.
double sign_variance(const at::Tensor& b) {
  return 2 * (b.square().sum() - b.diagonal().square().sum()).item<double>();
}

/// log of a positive definite matrix.
at::Tensor matrix_log(const at::Tensor& matrix) {
  const auto [values, vectors] = torch::linalg_eigh(matrix);
  return vectors.matmul(values.log().unsqueeze(1) * vectors.t());
}

}  // namespace

BOOST_AUTO_TEST_CASE(polynomials_of_degree_2m_minus_1_are_those_of_the_probes) {
  // tr A^p by quadrature is Hutchinson's estimate with the same probes, exactly up to 2 m - 1.
  const at::Tensor matrix = with_eigenvalues(torch::linspace(-1, 1.5, 60, at::kDouble));
  const int m = 3;
  at::Tensor power = torch::eye(60, double_options());
  for (int degree = 0; degree <= 2 * m; ++degree) {
    const DenseOperator a(matrix);
    const Estimate estimate =
        slq_trace_of_function(a, [degree](double x) { return std::pow(x, degree); },
                              {.samples = 4, .num_steps = m, .random = kSource});
    BOOST_TEST(estimate.products == 4 * m);
    BOOST_TEST(a.products() == 4 * m);
    const Estimate exact =
        hutchinson_trace(DenseOperator(power), {.samples = 4, .random = kSource});
    const double error = std::abs(estimate.value - exact.value);
    if (degree < 2 * m) {
      BOOST_TEST(error < 1e-10);
      BOOST_TEST(std::abs(*estimate.standard_error - *exact.standard_error) < 1e-10);
    } else {
      BOOST_TEST(error > 1e-5);
    }
    power = power.matmul(matrix);
  }
}

BOOST_AUTO_TEST_CASE(log_determinants_of_matrices_that_know_them) {
  // Enough steps, so that what is left is the probes' error: within 4 of its theoretical value.
  const double t = std::acosh(1.05);
  const at::Tensor identity = torch::eye(300, double_options());
  auto generator = at::make_generator<at::CPUGeneratorImpl>(6);
  const at::Tensor x = torch::randn({600, 300}, generator, at::kDouble).to(test_device());
  const at::Tensor wishart = x.t().matmul(x) / 600;
  const at::Tensor u = x[0].unsqueeze(1);
  const at::Tensor d = torch::arange(1, 301, double_options());
  const std::vector<std::pair<at::Tensor, double>> cases{
      {laplacian(300) + 0.1 * identity, std::log(std::sinh(301 * t) / std::sinh(t))},
      {laplacian(300), std::log(301.0)},
      {wishart, std::get<1>(torch::linalg_slogdet(wishart)).item<double>()},
      {d.diag() + u.matmul(u.t()),
       std::lgamma(301.0) + std::log1p((u.square().squeeze(1) / d).sum().item<double>())}};
  for (const auto& [matrix, expected] : cases) {
    const DenseOperator a(matrix);
    const Estimate estimate =
        slq_log_determinant(a, {.samples = 20, .num_steps = 150, .random = kSource});
    const double error = std::sqrt(sign_variance(matrix_log(matrix)) / 20);
    BOOST_TEST(std::abs(estimate.value - expected) <= 4 * error + 0.02);
    BOOST_TEST(*estimate.standard_error < 2 * error + 0.02);
    BOOST_TEST(*estimate.standard_error > 0.4 * error);
    BOOST_TEST(estimate.samples == 20);
    BOOST_TEST(estimate.products == a.products());
    BOOST_TEST(!estimate.exact);
  }
}

BOOST_AUTO_TEST_CASE(diagonal_operators_are_exact_for_signs) {
  // Every sign vector weighs the eigenvalues of a diagonal matrix equally.
  const DenseOperator a(torch::arange(1, 41, double_options()).diag());
  const Estimate estimate = slq_log_determinant(a, {.samples = 3, .num_steps = 40});
  BOOST_TEST(std::abs(estimate.value - std::lgamma(41.0)) < 1e-8);
  BOOST_TEST(*estimate.standard_error < 1e-8);
}

BOOST_AUTO_TEST_CASE(the_error_of_the_quadrature_falls_geometrically) {
  // log with condition k: rho = (sqrt(k) + 1) / (sqrt(k) - 1), error rho^-2m. One probe against the
  // exact z^T log(A) z. k = 9: rho^2 = 4.
  const at::Tensor matrix = with_eigenvalues(torch::linspace(1, 9, 400, at::kDouble));
  const DenseOperator a(matrix);
  const double exact =
      hutchinson_trace(DenseOperator(matrix_log(matrix)), {.samples = 1, .random = kSource}).value;
  double last = 0;
  for (const int64_t m : {4, 8, 12, 16}) {
    const double error = std::abs(
        slq_log_determinant(a, {.samples = 1, .num_steps = m, .random = kSource}).value - exact);
    if (last > 0 && error > 1e-10) BOOST_TEST(error < last / std::pow(4.0, 4 * 0.8));
    last = error;
  }
  BOOST_TEST(last < 1e-5);
}

BOOST_AUTO_TEST_CASE(effective_dimensions_come_from_one_krylov_space) {
  const at::Tensor eigenvalues =
      torch::cat({torch::zeros({150}, at::kDouble), torch::logspace(-6, 2, 150, 10, at::kDouble)});
  const at::Tensor matrix = with_eigenvalues(eigenvalues);
  const DenseOperator a(matrix);
  const std::vector<double> dampings{1e-2, 1e-1, 1, 10};
  const std::vector<Estimate> estimates =
      slq_effective_dimension(a, dampings, {.samples = 25, .num_steps = 60, .random = kSource});
  BOOST_TEST(a.products() == 25 * 60);
  const auto [values, vectors] = torch::linalg_eigh(matrix);
  for (size_t i = 0; i < dampings.size(); ++i) {
    const at::Tensor part = values / (values + dampings[i]);
    const double error =
        std::sqrt(sign_variance(vectors.matmul(part.unsqueeze(1) * vectors.t())) / 25);
    BOOST_TEST(std::abs(estimates[i].value - part.sum().item<double>()) <= 4 * error);
    BOOST_TEST(*estimates[i].standard_error > 0.5 * error);
    BOOST_TEST(*estimates[i].standard_error < 2 * error);
    BOOST_TEST(estimates[i].products == 25 * 60);
  }
  // A request holds for the whole grid.
  const std::vector<Estimate> adaptive = slq_effective_dimension(
      a, dampings, {.samples = 500, .num_steps = 40, .relative_error = 0.05, .random = kSource});
  for (const Estimate& estimate : adaptive) {
    BOOST_TEST((estimate.termination == Termination::kConverged));
    BOOST_TEST(*estimate.standard_error <= 0.05 * estimate.value);
    BOOST_TEST(estimate.samples == adaptive.front().samples);
  }
  BOOST_TEST(adaptive.front().samples < 500);
}

BOOST_AUTO_TEST_CASE(standard_errors_cover_the_truth) {
  // As for Hutchinson: 400 seeds, 20 samples each, 6 % expected.
  const at::Tensor matrix = with_eigenvalues(torch::linspace(0.5, 4, 50, at::kDouble));
  const DenseOperator a(matrix);
  const double exact = torch::linalg_eigvalsh(matrix).log().sum().item<double>();
  for (const Probe probe : {Probe::kRademacher, Probe::kGaussian, Probe::kSphere}) {
    int misses = 0;
    for (uint64_t seed = 0; seed < 400; ++seed) {
      const Estimate estimate = slq_log_determinant(a, {.samples = 20,
                                                        .num_steps = 15,
                                                        .probe = probe,
                                                        .probes_at_once = 20,
                                                        .random = RandomSource(seed)});
      misses += std::abs(estimate.value - exact) > 2 * *estimate.standard_error;
    }
    BOOST_TEST(misses >= 8);
    BOOST_TEST(misses <= 45);
  }
}

BOOST_AUTO_TEST_CASE(a_shift_costs_no_new_space_and_changes_nothing_else) {
  // The Krylov space of A + d I is that of A: tr f(A + d I) with f, or tr f(x + d) with A.
  const OperatorPtr a = std::make_shared<DenseOperator>(laplacian(80));
  const StochasticLanczosOptions options{.samples = 5, .num_steps = 20, .random = kSource};
  const double through_operator = slq_log_determinant(shifted(a, 0.3), options).value;
  const double through_function = slq_trace_of_function(
                                      a, [](double x) { return std::log(x + 0.3); }, options)
                                      .value;
  BOOST_TEST(std::abs(through_operator - through_function) < 1e-9);
}

BOOST_AUTO_TEST_CASE(operators_that_are_not_definite_are_refused) {
  const at::Tensor indefinite = with_eigenvalues(
      torch::cat({torch::full({1}, -1.0, at::kDouble), torch::linspace(1, 2, 59, at::kDouble)}));
  const at::Tensor singular = with_eigenvalues(
      torch::cat({torch::zeros({30}, at::kDouble), torch::ones({30}, at::kDouble)}));
  BOOST_CHECK_THROW(slq_log_determinant(DenseOperator(indefinite)), NumericalError);
  BOOST_CHECK_THROW(slq_log_determinant(DenseOperator(singular)), NumericalError);
  BOOST_CHECK_THROW(slq_log_determinant(DenseOperator(torch::zeros({4, 4}, double_options()))),
                    NumericalError);
  BOOST_CHECK_THROW(slq_effective_dimension(DenseOperator(indefinite), {1.0}), NumericalError);
  const Estimate half = slq_effective_dimension(DenseOperator(singular), {1.0}).front();
  BOOST_TEST(std::abs(half.value - 15) <= 4 * *half.standard_error + 1e-9);
  const DenseOperator zero(torch::zeros({4, 4}, double_options()));
  BOOST_TEST(slq_effective_dimension(zero, {1.0}).front().value == 0);
  BOOST_TEST(zero.products() == 30);  // each run breaks down at once
}

BOOST_AUTO_TEST_CASE(invariant_spaces_end_runs_early) {
  const at::Tensor eigenvalues =
      torch::cat({torch::ones({40}, at::kDouble), torch::full({60}, 4.0, at::kDouble)});
  const DenseOperator a(with_eigenvalues(eigenvalues));
  const Estimate estimate =
      slq_log_determinant(a, {.samples = 10, .probes_at_once = 4, .random = kSource});
  BOOST_TEST(estimate.products == 20);
  BOOST_TEST(a.products() == 20);
  BOOST_TEST(std::abs(estimate.value - 60 * std::log(4.0)) <= 5 * *estimate.standard_error);
  const DenseOperator one(torch::full({1, 1}, 2.0, double_options()));
  const Estimate single = slq_log_determinant(one, {.samples = 2});
  BOOST_TEST(std::abs(single.value - std::log(2.0)) < 1e-14);
  BOOST_TEST(*single.standard_error == 0);
}

BOOST_AUTO_TEST_CASE(adaptive_stopping_and_probes_at_once) {
  const DenseOperator a(laplacian(200) + torch::eye(200, double_options()));
  const auto with = [&](int64_t probes_at_once) {
    return slq_log_determinant(a, {.samples = 400,
                                   .num_steps = 15,
                                   .relative_error = 0.01,
                                   .probes_at_once = probes_at_once,
                                   .random = kSource});
  };
  const Estimate one = with(1), four = with(4);
  BOOST_TEST((one.termination == Termination::kConverged));
  BOOST_TEST(one.samples < 400);
  BOOST_TEST(one.samples == four.samples);
  BOOST_TEST(one.products == one.samples * 15);
  BOOST_TEST(std::abs(one.value - four.value) < 1e-9);
  BOOST_TEST(*one.standard_error <= 0.01 * one.value);
  const Estimate missed =
      slq_log_determinant(a, {.samples = 12, .num_steps = 15, .absolute_error = 1e-9});
  BOOST_TEST((missed.termination == Termination::kMaxIterations));
}

BOOST_AUTO_TEST_CASE(float32_operators) {
  const at::Tensor matrix = laplacian(200) + torch::eye(200, double_options());
  const StochasticLanczosOptions options{.samples = 5, .num_steps = 25, .random = kSource};
  BOOST_TEST(std::abs(slq_log_determinant(DenseOperator(matrix.to(at::kFloat)), options).value -
                      slq_log_determinant(DenseOperator(matrix), options).value) < 1e-3);
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_typed_errors) {
  const DenseOperator a(laplacian(10));
  BOOST_CHECK_THROW(slq_log_determinant(a, {.samples = 0}), OptionError);
  BOOST_CHECK_THROW(slq_log_determinant(a, {.num_steps = 0}), OptionError);
  BOOST_CHECK_THROW(slq_log_determinant(a, {.probes_at_once = 0}), OptionError);
  BOOST_CHECK_THROW(slq_log_determinant(DenseOperator(laplacian(10), Symmetry::kGeneral)),
                    NotSupportedError);
  BOOST_CHECK_THROW(slq_effective_dimension(a, {0.0}), OptionError);
  BOOST_CHECK_THROW(slq_trace_of_function(a, {}), OptionError);
  BOOST_CHECK_THROW(slq_trace_of_function(a, [](double) { return INFINITY; }), NumericalError);
  const DenseOperator broken(torch::full({4, 4}, NAN, double_options()));
  BOOST_CHECK_THROW(slq_log_determinant(broken), NumericalError);
  struct Cancelled {};
  int64_t last = 0;
  slq_log_determinant(a, {.samples = 3, .num_steps = 4, .observer = [&](const Progress& progress) {
                            BOOST_TEST(progress.total == 12);
                            BOOST_TEST(progress.done == ++last);
                          }});
  BOOST_TEST(last == 12);
  BOOST_CHECK_THROW(
      slq_log_determinant(a, {.observer = [](const Progress&) { throw Cancelled{}; }}), Cancelled);
}

BOOST_AUTO_TEST_SUITE_END()
