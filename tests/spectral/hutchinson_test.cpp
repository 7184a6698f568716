#include <cmath>
#include <functional>
#include <limits>

#include <curvature/core/error.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/spectral/hutchinson.hpp>

#include "spectral/statistics.hpp"
#include "support/dense_operator.hpp"

BOOST_AUTO_TEST_SUITE(hutchinson_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

const RandomSource kSource(5);
constexpr Probe kProbes[] = {Probe::kRademacher, Probe::kGaussian, Probe::kSphere};

/// Variance of z^T A z for a symmetric matrix.
double trace_variance(const at::Tensor& a, Probe probe) {
  const double frobenius = a.square().sum().item<double>();
  const auto n = static_cast<double>(a.size(0));
  const double trace = a.trace().item<double>();
  if (probe == Probe::kGaussian) return 2 * frobenius;
  if (probe == Probe::kSphere) return 2 * n / (n + 2) * (frobenius - trace * trace / n);
  return 2 * (frobenius - a.diagonal().square().sum().item<double>());
}

/// A rectangular matrix known by its products, with or without an adjoint.
OperatorPtr rectangular(const at::Tensor& matrix, bool with_adjoint, int64_t& products) {
  const OperatorSpec spec{.domain = Space::flat(matrix.size(1)),
                          .range = Space::flat(matrix.size(0)),
                          .dtype = matrix.scalar_type(),
                          .device = matrix.device()};
  MatrixMap adjoint;
  if (with_adjoint) {
    adjoint = [matrix, &products](const at::Tensor& y) {
      products += y.size(1);
      return matrix.t().matmul(y);
    };
  }
  return function_operator(spec, MatrixMap([matrix, &products](const at::Tensor& x) {
                             products += x.size(1);
                             return matrix.matmul(x);
                           }),
                           adjoint);
}

at::Tensor random_matrix(int64_t rows, int64_t cols, uint64_t seed = 3) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return torch::randn({rows, cols}, generator, at::kDouble).to(test_device());
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_variance_of_a_sample_is_that_of_its_distribution) {
  // z^T A z of n = 100 is nearly normal, so (k - 1) s^2 / sigma^2 nearly chi-squared: with k = 4000
  // s^2 / sigma^2 is within 1 +- 5 sqrt(2 / k) = 0.11 but for one run in 10^6; the excess kurtosis
  // of this matrix (below 0.5) widens the deviation by 12 %, to 4.5 sigma.
  const int64_t n = 100;
  const at::Tensor matrix = with_eigenvalues(torch::linspace(-1, 3, n, at::kDouble));
  const DenseOperator a(matrix);
  const int count = 4000;
  for (const Probe probe : kProbes) {
    const Estimate estimate =
        hutchinson_trace(a, {.samples = count, .probe = probe, .columns_at_once = 500});
    const double variance = trace_variance(matrix, probe);
    const double ratio = *estimate.standard_error * *estimate.standard_error * count / variance;
    BOOST_TEST(std::abs(ratio - 1) < 5 * std::sqrt(2.0 / count));
    BOOST_TEST(std::abs(estimate.value - n) <= 4 * std::sqrt(variance / count));
    BOOST_TEST(estimate.samples == count);
  }
  BOOST_TEST(a.products() == 3 * count);
}

BOOST_AUTO_TEST_CASE(the_trace_of_the_laplacian_is_exact_for_its_diagonal_part) {
  // tr = 2 n, and signs see the off-diagonal part only: variance 4 (n - 1).
  const int64_t n = 500;
  const DenseOperator a(laplacian(n));
  const Estimate estimate = hutchinson_trace(a, {.samples = 100, .random = kSource});
  BOOST_TEST(std::abs(estimate.value - 2.0 * n) <= 4 * std::sqrt(4.0 * (n - 1) / 100));
  BOOST_TEST(!estimate.exact);
  BOOST_TEST(estimate.products == a.products());
  BOOST_TEST((estimate.termination == Termination::kConverged));
}

BOOST_AUTO_TEST_CASE(standard_errors_cover_the_truth) {
  // With 20 samples |error| > 2 standard errors in 6 % (t distribution, 19 degrees of freedom): of
  // 400 seeds between 8 and 45 with probability 0.9997.
  const int64_t n = 60;
  const at::Tensor matrix = with_eigenvalues(torch::linspace(0, 2, n, at::kDouble));
  const DenseOperator a(matrix);
  const double frobenius = matrix.norm().item<double>();
  const at::Tensor diagonal = matrix.diagonal();
  for (const Probe probe : kProbes) {
    int trace_misses = 0, norm_misses = 0, diagonal_misses = 0;
    for (uint64_t seed = 0; seed < 400; ++seed) {
      const EstimateOptions options{
          .samples = 20, .probe = probe, .columns_at_once = 20, .random = RandomSource(seed)};
      const Estimate trace = hutchinson_trace(a, options);
      trace_misses += std::abs(trace.value - n) > 2 * *trace.standard_error;
      const Estimate norm = hutchinson_frobenius_norm(a, options).norm;
      norm_misses += std::abs(norm.value - frobenius) > 2 * *norm.standard_error;
      if (seed >= 100) continue;
      const DiagonalEstimate d = hutchinson_diagonal(a, options);
      diagonal_misses += ((d.values - diagonal).abs() > 2 * d.standard_errors).sum().item<int>();
    }
    BOOST_TEST((trace_misses >= 8 && trace_misses <= 45));
    BOOST_TEST((norm_misses >= 8 && norm_misses <= 45));
    // 6000 entries, correlated within a seed.
    BOOST_TEST((diagonal_misses >= 240 && diagonal_misses <= 500));
  }
}

BOOST_AUTO_TEST_CASE(the_diagonal_has_the_variance_of_its_row) {
  // Var_i = sum_{j != i} a_ij^2 for signs; others weigh by z_i^2, which sum to about the number of
  // samples. Mean over 40 entries of s^2 / sigma^2, 1000 samples each: 5 sigma are below 0.1.
  const int64_t n = 40, count = 1000;
  const at::Tensor matrix = random_matrix(n, n);
  const DenseOperator a(matrix, Symmetry::kGeneral);
  const at::Tensor variance = matrix.square().sum(1) - matrix.diagonal().square();
  for (const Probe probe : kProbes) {
    const DiagonalEstimate estimate =
        hutchinson_diagonal(a, {.samples = count, .probe = probe, .random = kSource});
    const at::Tensor ratio =
        estimate.standard_errors.square() * static_cast<double>(count) / variance;
    BOOST_TEST(std::abs(ratio.mean().item<double>() - 1) < 0.1);
    const at::Tensor errors =
        (estimate.values - matrix.diagonal()) / (variance / static_cast<double>(count)).sqrt();
    BOOST_TEST(errors.abs().max().item<double>() < 5);
    BOOST_TEST(std::abs(errors.square().mean().item<double>() - 1) < 1.2);  // 5 sigma
    BOOST_TEST(estimate.products == count);
  }
}

BOOST_AUTO_TEST_CASE(what_signs_see_exactly_has_no_error) {
  const at::Tensor d = torch::arange(1, 9, double_options());
  const DenseOperator a(d.diag());
  const EstimateOptions options{.samples = 12, .absolute_error = 1e-9};
  const Estimate trace = hutchinson_trace(a, options);
  BOOST_TEST(std::abs(trace.value - 36) < 1e-12);
  BOOST_TEST(*trace.standard_error < 1e-12);
  BOOST_TEST(trace.samples == 10);
  BOOST_TEST((trace.termination == Termination::kConverged));
  BOOST_TEST(close(hutchinson_diagonal(a, options).values, d, {1e-14}));
  const Estimate zero =
      hutchinson_trace(DenseOperator(torch::zeros({3, 3}, double_options())), options);
  BOOST_TEST(zero.value == 0);
  BOOST_TEST(*zero.standard_error == 0);
  // A single row: z a z / z z = a for every probe.
  const DenseOperator one(torch::full({1, 1}, -3.0, double_options()));
  for (const Probe probe : kProbes) {
    BOOST_TEST(
        std::abs(hutchinson_diagonal(one, {.samples = 3, .probe = probe}).values.item<double>() +
                 3) < 1e-12);
  }
}

BOOST_AUTO_TEST_CASE(frobenius_norms_of_rectangular_operators) {
  const at::Tensor tall = random_matrix(90, 30);
  for (const bool wide : {false, true}) {
    const at::Tensor matrix = wide ? tall.t() : tall;
    for (const bool with_adjoint : {true, false}) {
      int64_t products = 0;
      const OperatorPtr a = rectangular(matrix, with_adjoint, products);
      const FrobeniusEstimate estimate =
          hutchinson_frobenius_norm(a, {.samples = 200, .random = kSource});
      const double exact = matrix.square().sum().item<double>();
      const at::Tensor gram = tall.t().matmul(tall);
      // |A z|^2 = z^T A^T A z; of the larger Gram matrix the diagonal is another one.
      const double variance = wide && !with_adjoint
                                  ? trace_variance(tall.matmul(tall.t()), Probe::kRademacher)
                                  : trace_variance(gram, Probe::kRademacher);
      const double error = std::sqrt(variance / 200);
      BOOST_TEST(std::abs(estimate.squared_norm.value - exact) <= 4 * error);
      BOOST_TEST(*estimate.squared_norm.standard_error > 0.7 * error);
      BOOST_TEST(*estimate.squared_norm.standard_error < 1.3 * error);
      BOOST_TEST(std::abs(estimate.norm.value - std::sqrt(estimate.squared_norm.value)) < 1e-9);
      BOOST_TEST(std::abs(*estimate.norm.standard_error * 2 * estimate.norm.value -
                          *estimate.squared_norm.standard_error) < 1e-9);
      BOOST_TEST(estimate.norm.products == products);
    }
  }
}

BOOST_AUTO_TEST_CASE(adaptive_stopping_meets_its_request_and_says_if_not) {
  const at::Tensor matrix = with_eigenvalues(torch::linspace(0, 1, 200, at::kDouble));
  const DenseOperator a(matrix);
  const Estimate met =
      hutchinson_trace(a, {.samples = 5000, .relative_error = 0.01, .random = kSource});
  BOOST_TEST((met.termination == Termination::kConverged));
  BOOST_TEST(*met.standard_error <= 0.01 * met.value);
  BOOST_TEST(met.samples % 10 == 0);
  // The variance says how many it takes: sigma^2 / (0.01 tr)^2 = 33 or so.
  const double expected = trace_variance(matrix, Probe::kRademacher) / (0.01 * 0.01 * 1e4);
  BOOST_TEST(static_cast<double>(met.samples) > 0.4 * expected);
  BOOST_TEST(static_cast<double>(met.samples) < 2.5 * expected);

  const Estimate missed =
      hutchinson_trace(a, {.samples = 25, .absolute_error = 1e-6, .random = kSource});
  BOOST_TEST((missed.termination == Termination::kMaxIterations));
  BOOST_TEST(missed.samples == 25);
  // Never judged by less than check_every samples.
  const Estimate few =
      hutchinson_trace(a, {.samples = 5, .absolute_error = 1e6, .random = kSource});
  BOOST_TEST((few.termination == Termination::kMaxIterations));
  // The larger of two requests counts.
  const Estimate both = hutchinson_trace(
      a, {.samples = 5000, .absolute_error = 1e-9, .relative_error = 0.01, .random = kSource});
  BOOST_TEST(both.samples == met.samples);

  const DiagonalEstimate diagonal =
      hutchinson_diagonal(a, {.samples = 2000, .relative_error = 0.05, .random = kSource});
  BOOST_TEST((diagonal.termination == Termination::kConverged));
  BOOST_TEST(diagonal.standard_errors.norm().item<double>() <=
             0.05 * diagonal.values.norm().item<double>());
  BOOST_TEST(diagonal.samples < 2000);

  const FrobeniusEstimate norm =
      hutchinson_frobenius_norm(a, {.samples = 2000, .relative_error = 0.01, .random = kSource});
  BOOST_TEST((norm.norm.termination == Termination::kConverged));
  BOOST_TEST(*norm.norm.standard_error <= 0.01 * norm.norm.value);
  BOOST_TEST(norm.norm.samples < 2000);
}

BOOST_AUTO_TEST_CASE(chunks_change_nothing_and_seeds_everything) {
  const DenseOperator a(random_matrix(50, 50), Symmetry::kGeneral);
  for (const std::optional<double> request : {std::optional<double>(), std::optional(0.5)}) {
    const auto with = [&](int64_t columns, uint64_t seed) {
      return hutchinson_trace(a, {.samples = 37,
                                  .relative_error = request,
                                  .columns_at_once = columns,
                                  .random = RandomSource(seed)});
    };
    const Estimate one = with(1, 1), seven = with(7, 1), all = with(100, 1);
    BOOST_TEST(one.samples == seven.samples);
    BOOST_TEST(std::abs(one.value - seven.value) < 1e-10);
    BOOST_TEST(std::abs(one.value - all.value) < 1e-10);
    BOOST_TEST(with(7, 1).value == seven.value);
    BOOST_TEST(with(7, 2).value != seven.value);
  }
  const auto diagonal = [&](int64_t columns) {
    return hutchinson_diagonal(a, {.samples = 37, .columns_at_once = columns}).values;
  };
  BOOST_TEST(close(diagonal(1), diagonal(16), {1e-12}));
}

BOOST_AUTO_TEST_CASE(float32_operators) {
  const at::Tensor matrix = with_eigenvalues(torch::linspace(0, 2, 100, at::kDouble));
  const DenseOperator single(matrix.to(at::kFloat)), exact(matrix);
  const EstimateOptions options{.samples = 30, .random = kSource};
  BOOST_TEST(std::abs(hutchinson_trace(single, options).value -
                      hutchinson_trace(exact, options).value) < 1e-3);
  const DiagonalEstimate diagonal = hutchinson_diagonal(single, options);
  BOOST_TEST((diagonal.values.scalar_type() == at::kFloat));
  BOOST_TEST(
      close(diagonal.values.to(at::kDouble), hutchinson_diagonal(exact, options).values, {1e-5}));
  BOOST_TEST(close(diagonal.standard_errors.to(at::kDouble),
                   hutchinson_diagonal(exact, options).standard_errors, {1e-4}));
}

BOOST_AUTO_TEST_CASE(a_single_sample_has_no_standard_error) {
  const DenseOperator a(laplacian(10));
  BOOST_TEST(!hutchinson_trace(a, {.samples = 1}).standard_error.has_value());
  BOOST_TEST(!hutchinson_diagonal(a, {.samples = 1}).standard_errors.defined());
  BOOST_TEST(!hutchinson_frobenius_norm(a, {.samples = 1}).norm.standard_error.has_value());
}

BOOST_AUTO_TEST_CASE(the_observer_sees_products_and_cancels) {
  struct Cancelled {};
  const DenseOperator a(laplacian(10));
  std::vector<int64_t> seen;
  hutchinson_trace(a, {.samples = 7, .columns_at_once = 3, .observer = [&](const Progress& p) {
                         seen.push_back(p.done);
                         BOOST_TEST(p.total == 7);
                       }});
  BOOST_TEST((seen == std::vector<int64_t>{3, 6, 7}));
  BOOST_CHECK_THROW(hutchinson_trace(a, {.observer = [](const Progress&) { throw Cancelled{}; }}),
                    Cancelled);
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_typed_errors) {
  const DenseOperator a(laplacian(10));
  BOOST_CHECK_THROW(hutchinson_trace(a, {.samples = 0}), OptionError);
  BOOST_CHECK_THROW(hutchinson_trace(a, {.check_every = 1}), OptionError);
  BOOST_CHECK_THROW(hutchinson_trace(a, {.columns_at_once = 0}), OptionError);
  BOOST_CHECK_THROW(hutchinson_trace(a, {.absolute_error = 0.0}), OptionError);
  BOOST_CHECK_THROW(hutchinson_trace(a, {.relative_error = -1.0}), OptionError);
  BOOST_CHECK_THROW(hutchinson_trace(OperatorPtr()), OptionError);
  int64_t products = 0;
  const OperatorPtr wide = rectangular(random_matrix(2, 3), true, products);
  BOOST_CHECK_THROW(hutchinson_trace(wide), ShapeError);
  BOOST_CHECK_THROW(hutchinson_diagonal(wide), ShapeError);
  const at::Tensor broken =
      torch::full({4, 4}, std::numeric_limits<double>::quiet_NaN(), double_options());
  BOOST_CHECK_THROW(hutchinson_trace(DenseOperator(broken)), NumericalError);
  BOOST_CHECK_THROW(hutchinson_diagonal(DenseOperator(broken)), NumericalError);
  BOOST_CHECK_THROW(hutchinson_frobenius_norm(DenseOperator(broken)), NumericalError);
}

BOOST_AUTO_TEST_SUITE_END()
