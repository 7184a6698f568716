#include <cmath>
#include <functional>
#include <limits>

#include <curvature/core/error.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/spectral/hutch_plus_plus.hpp>
#include <curvature/spectral/hutchinson.hpp>
#include <curvature/spectral/xtrace.hpp>

#include "spectral/statistics.hpp"
#include "support/dense_operator.hpp"

BOOST_AUTO_TEST_SUITE(subspace_estimators_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

constexpr Probe kProbes[] = {Probe::kRademacher, Probe::kGaussian, Probe::kSphere};
using Estimator = std::function<Estimate(const LinearOperator&, const EstimateOptions&)>;

const Estimator kHutchinson = [](const LinearOperator& a, const EstimateOptions& options) {
  return hutchinson_trace(a, options);
};
const Estimator kHutchPlusPlus = [](const LinearOperator& a, const EstimateOptions& options) {
  return hutch_plus_plus_trace(a, options);
};
const Estimator kXTrace = [](const LinearOperator& a, const EstimateOptions& options) {
  return xtrace(a, options);
};

/// Eigenvalues 1 / i^2.
at::Tensor quadratic_decay(int64_t n) {
  return with_eigenvalues(torch::arange(1, n + 1, at::kDouble).square().reciprocal());
}

at::Tensor random_matrix(int64_t rows, int64_t cols, uint64_t seed = 3) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return torch::randn({rows, cols}, generator, at::kDouble).to(test_device());
}

/// A square matrix that is not symmetric, with or without products with its adjoint.
OperatorPtr general(const at::Tensor& matrix, bool with_adjoint) {
  const OperatorSpec spec{.domain = Space::flat(matrix.size(1)),
                          .range = Space::flat(matrix.size(0)),
                          .dtype = matrix.scalar_type(),
                          .device = matrix.device()};
  MatrixMap adjoint;
  if (with_adjoint) adjoint = [matrix](const at::Tensor& y) { return matrix.t().matmul(y); };
  return function_operator(
      spec, MatrixMap([matrix](const at::Tensor& x) { return matrix.matmul(x); }), adjoint);
}

}  // namespace

BOOST_AUTO_TEST_CASE(quickly_falling_eigenvalues_are_worth_the_subspace) {
  // 20 products, n = 300, eigenvalues 1 / i^2. Median relative errors in the literature and with
  // other seeds: 0.13, 0.010 and 0.007.
  const at::Tensor matrix = quadratic_decay(300);
  const DenseOperator a(matrix);
  const double trace = matrix.trace().item<double>();
  const auto median_error = [&](const Estimator& estimator, Probe probe) {
    std::vector<double> errors;
    for (uint64_t seed = 0; seed < 101; ++seed) {
      const Estimate estimate =
          estimator(a, {.samples = 20, .probe = probe, .random = RandomSource(seed)});
      errors.push_back(std::abs(estimate.value / trace - 1));
    }
    return median(errors);
  };
  for (const Probe probe : kProbes) {
    const double baseline = median_error(kHutchinson, probe);
    BOOST_TEST(baseline > 0.08);
    BOOST_TEST(median_error(kHutchPlusPlus, probe) < baseline / 8);
    BOOST_TEST(median_error(kXTrace, probe) < baseline / 12);
  }
}

BOOST_AUTO_TEST_CASE(estimates_are_unbiased_for_general_matrices) {
  // Mean over 400 seeds within 4 of its standard errors, once in 16000.
  const at::Tensor matrix = random_matrix(30, 30) + 0.3;
  const DenseOperator a(matrix, Symmetry::kGeneral);
  for (const Estimator& estimator : {kHutchPlusPlus, kXTrace}) {
    for (const Probe probe : kProbes) {
      std::vector<double> values;
      for (uint64_t seed = 0; seed < 400; ++seed) {
        values.push_back(
            estimator(a, {.samples = 12, .probe = probe, .random = RandomSource(seed)}).value);
      }
      const Moments found = moments(values);
      BOOST_TEST(std::abs(found.mean - matrix.trace().item<double>()) <=
                 4 * std::sqrt(found.variance / 400));
    }
  }
}

BOOST_AUTO_TEST_CASE(standard_errors_predict_the_spread) {
  // Root mean square of the reported errors against that of the true ones, 200 seeds: the latter is
  // known to 5 %, the former to about 7 %. XTrace's samples depend on each other, so its standard
  // error is held to a factor of 2 only.
  const at::Tensor matrix = quadratic_decay(150);
  const DenseOperator a(matrix);
  const double trace = matrix.trace().item<double>();
  for (const Probe probe : kProbes) {
    for (const bool leave_one_out : {false, true}) {
      std::vector<double> errors, reported;
      for (uint64_t seed = 0; seed < 200; ++seed) {
        const EstimateOptions options{.samples = 60, .probe = probe, .random = RandomSource(seed)};
        const Estimate estimate =
            leave_one_out ? xtrace(a, options) : hutch_plus_plus_trace(a, options);
        errors.push_back(estimate.value - trace);
        reported.push_back(*estimate.standard_error);
      }
      const double ratio = root_mean_square(reported) / root_mean_square(errors);
      BOOST_TEST(ratio > (leave_one_out ? 0.5 : 0.75));
      BOOST_TEST(ratio < (leave_one_out ? 2.0 : 1.33));
    }
  }
}

BOOST_AUTO_TEST_CASE(budgets_are_kept_and_counted) {
  const at::Tensor matrix = quadratic_decay(50);
  for (const int64_t samples : {1, 2, 3, 4, 5, 7, 20, 49}) {
    const DenseOperator a(matrix);
    const Estimate estimate = hutch_plus_plus_trace(a, {.samples = samples});
    BOOST_TEST(estimate.products == samples);
    BOOST_TEST(a.products() == samples);
    BOOST_TEST(std::isfinite(estimate.value));
    if (samples == 1) continue;
    const DenseOperator b(matrix);
    const Estimate left_out = xtrace(b, {.samples = samples});
    BOOST_TEST(left_out.products == samples / 2 * 2);
    BOOST_TEST(b.products() == left_out.products);
    BOOST_TEST(left_out.standard_error.has_value() == (samples > 3));
    const DenseOperator c(matrix);
    const DiagonalEstimate diagonal = xdiag(c, {.samples = samples});
    BOOST_TEST(diagonal.products == samples / 2 * 2);
    BOOST_TEST(c.products() == diagonal.products);
  }
  // A budget that pays for all columns.
  for (const int64_t samples : {50, 200}) {
    const DenseOperator a(matrix);
    for (const Estimator& estimator : {kHutchPlusPlus, kXTrace}) {
      const Estimate estimate = estimator(a, {.samples = samples});
      BOOST_TEST(estimate.exact);
      BOOST_TEST(!estimate.standard_error.has_value());
      BOOST_TEST(estimate.products == 50);
      BOOST_TEST(std::abs(estimate.value - matrix.trace().item<double>()) < 1e-12);
    }
    const DiagonalEstimate diagonal = xdiag(a, {.samples = samples});
    BOOST_TEST(diagonal.exact);
    BOOST_TEST(close(diagonal.values, matrix.diagonal()));
    BOOST_TEST(hutch_plus_plus_frobenius_norm(a, {.samples = samples}).norm.exact);
    BOOST_TEST(a.products() == 200);
  }
}

BOOST_AUTO_TEST_CASE(low_rank_operators_are_found_exactly) {
  const int64_t n = 80;
  for (const int64_t rank : {0, 1, 3}) {
    const at::Tensor factor = random_matrix(n, rank);
    const at::Tensor matrix = factor.matmul(random_matrix(rank, n, 8));
    const double trace = matrix.trace().item<double>();
    const double tolerance = 1e-10 * (1 + matrix.norm().item<double>());
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat}) {
      const DenseOperator a(matrix.to(dtype), Symmetry::kGeneral);
      const OperatorPtr with_adjoint = general(matrix.to(dtype), true);
      const double allowed = dtype == at::kDouble ? tolerance : 1e6 * tolerance;
      for (const Probe probe : kProbes) {
        // As many vectors as the rank do not show that there is no more; one more does, unless it
        // is a sign vector.
        const Estimate same =
            xtrace(a, {.samples = std::max<int64_t>(2, 2 * rank), .probe = probe});
        if (rank > 0) BOOST_TEST(!same.exact);
        const Estimate more = xtrace(a, {.samples = 2 * (rank + 1), .probe = probe});
        BOOST_TEST(std::abs(more.value - trace) <= allowed);
        BOOST_TEST(!more.standard_error.has_value());
        BOOST_TEST(more.exact == (probe != Probe::kRademacher));
        const Estimate many = xtrace(a, {.samples = 2 * (rank + 20), .probe = probe});
        BOOST_TEST(many.exact);
        BOOST_TEST(std::abs(many.value - trace) <= allowed);
      }
      const DiagonalEstimate diagonal = xdiag(with_adjoint, {.samples = 2 * (rank + 20)});
      BOOST_TEST(diagonal.exact);
      BOOST_TEST(!diagonal.standard_errors.defined());
      BOOST_TEST(close(diagonal.values.to(at::kDouble), matrix.diagonal(),
                       {dtype == at::kDouble ? 1e-11 : 1e-4}));
      // Hutch++ leaves nothing to its samples.
      const Estimate rest = hutch_plus_plus_trace(a, {.samples = 3 * (rank + 3)});
      BOOST_TEST(std::abs(rest.value - trace) <= allowed);
      BOOST_TEST(*rest.standard_error <= allowed);
    }
  }
}

BOOST_AUTO_TEST_CASE(rescaled_to_the_sphere_multiples_of_the_identity_have_no_error) {
  // k - 1 directions measured, n - k + 1 tested: c n from every single column.
  const DenseOperator a(2.5 * torch::eye(40, double_options()));
  for (const Probe probe : {Probe::kGaussian, Probe::kSphere}) {
    const Estimate estimate = xtrace(a, {.samples = 14, .probe = probe});
    BOOST_TEST(std::abs(estimate.value - 100) < 1e-11);
    BOOST_TEST(*estimate.standard_error < 1e-12);
    BOOST_TEST(!estimate.exact);
  }
}

BOOST_AUTO_TEST_CASE(repeated_probes_do_not_pass_for_a_low_rank) {
  // Of two sign vectors of length 5 one in 16 pairs is parallel: the sketch is singular although
  // the operator is not.
  const at::Tensor matrix = with_eigenvalues(torch::arange(1, 6, at::kDouble));
  const DenseOperator a(matrix);
  std::vector<double> values;
  int singular = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const Estimate estimate = xtrace(a, {.samples = 4, .random = RandomSource(seed)});
    BOOST_REQUIRE(std::isfinite(estimate.value));
    BOOST_REQUIRE(!estimate.exact);
    singular += !estimate.standard_error.has_value();
    values.push_back(estimate.value);
  }
  BOOST_TEST(singular >= 7);  // 25 expected, standard deviation 5
  BOOST_TEST(singular <= 45);
  const Moments found = moments(values);
  BOOST_TEST(std::abs(found.mean - 15) <= 4 * std::sqrt(found.variance / 400));
}

BOOST_AUTO_TEST_CASE(xdiag_beats_hutchinson_and_needs_the_adjoint) {
  const int64_t n = 200;
  const at::Tensor symmetric = quadratic_decay(n);
  const at::Tensor matrix =
      random_matrix(n, 4, 1).matmul(random_matrix(4, n, 2)) + 0.01 * random_matrix(n, n, 5);
  for (const bool is_symmetric : {true, false}) {
    const at::Tensor& m = is_symmetric ? symmetric : matrix;
    const OperatorPtr a = is_symmetric ? std::make_shared<DenseOperator>(m) : general(matrix, true);
    std::vector<double> baseline, errors, reported;
    at::Tensor sum = torch::zeros_like(m.diagonal());
    for (uint64_t seed = 0; seed < 60; ++seed) {
      const EstimateOptions options{.samples = 40, .random = RandomSource(seed)};
      baseline.push_back(
          (hutchinson_diagonal(a, options).values - m.diagonal()).norm().item<double>());
      const DiagonalEstimate estimate = xdiag(a, options);
      errors.push_back((estimate.values - m.diagonal()).norm().item<double>());
      reported.push_back(estimate.standard_errors.norm().item<double>());
      sum += estimate.values;
    }
    BOOST_TEST(median(errors) < median(baseline) / 5);
    BOOST_TEST(root_mean_square(reported) > 0.5 * root_mean_square(errors));
    BOOST_TEST(root_mean_square(reported) < 2 * root_mean_square(errors));
    // Unbiased: the mean of 60 is about sqrt(60) times closer.
    BOOST_TEST((sum / 60 - m.diagonal()).norm().item<double>() < 0.25 * root_mean_square(errors));
  }
  BOOST_CHECK_THROW(xdiag(general(matrix, false), {.samples = 10}), NotSupportedError);
  BOOST_CHECK_THROW(hutch_plus_plus_frobenius_norm(general(matrix, false), {.samples = 10}),
                    NotSupportedError);
}

BOOST_AUTO_TEST_CASE(frobenius_norm_by_hutch_plus_plus) {
  const at::Tensor tall = quadratic_decay(120).narrow(1, 0, 60).contiguous();
  for (const bool wide : {false, true}) {
    const at::Tensor matrix = wide ? tall.t().contiguous() : tall;
    const OperatorPtr a = general(matrix, true);
    const double exact = matrix.square().sum().item<double>();
    std::vector<double> errors, baseline, reported;
    for (uint64_t seed = 0; seed < 100; ++seed) {
      const EstimateOptions options{.samples = 21, .random = RandomSource(seed)};
      const FrobeniusEstimate estimate = hutch_plus_plus_frobenius_norm(a, options);
      errors.push_back(estimate.squared_norm.value - exact);
      reported.push_back(*estimate.squared_norm.standard_error);
      BOOST_TEST(estimate.norm.products == 21);
      baseline.push_back(hutchinson_frobenius_norm(a, options).squared_norm.value - exact);
    }
    BOOST_TEST(root_mean_square(errors) < root_mean_square(baseline) / 20);
    BOOST_TEST(root_mean_square(reported) > 0.6 * root_mean_square(errors));
    BOOST_TEST(root_mean_square(reported) < 1.6 * root_mean_square(errors));
  }
}

BOOST_AUTO_TEST_CASE(adaptive_stopping_meets_its_request) {
  const at::Tensor matrix = quadratic_decay(400);
  const double trace = matrix.trace().item<double>();
  for (const Estimator& estimator : {kHutchPlusPlus, kXTrace}) {
    const DenseOperator a(matrix);
    const Estimate met = estimator(a, {.samples = 300, .relative_error = 3e-4});
    BOOST_TEST((met.termination == Termination::kConverged));
    BOOST_TEST(*met.standard_error <= 3e-4 * met.value);
    BOOST_TEST(std::abs(met.value - trace) <= 6 * 3e-4 * trace);
    BOOST_TEST(met.products < 300);
    BOOST_TEST(met.products == a.products());
    const Estimate missed = estimator(a, {.samples = 30, .relative_error = 1e-9});
    BOOST_TEST((missed.termination == Termination::kMaxIterations));
    BOOST_TEST(missed.products == 30);
  }
  const DenseOperator a(matrix);
  const DiagonalEstimate diagonal = xdiag(a, {.samples = 300, .relative_error = 0.01});
  BOOST_TEST((diagonal.termination == Termination::kConverged));
  BOOST_TEST(diagonal.products == a.products());
  BOOST_TEST(diagonal.products < 300);
  BOOST_TEST((diagonal.values - matrix.diagonal()).norm().item<double>() <
             0.03 * matrix.diagonal().norm().item<double>());
  // Low rank ends the growth, whatever is requested.
  const DenseOperator low(with_eigenvalues(
      torch::cat({torch::ones({3}, at::kDouble), torch::zeros({397}, at::kDouble)})));
  const Estimate exact = xtrace(low, {.samples = 300, .absolute_error = 1e-30});
  BOOST_TEST(exact.exact);
  BOOST_TEST((exact.termination == Termination::kConverged));
  BOOST_TEST(exact.products < 100);
}

BOOST_AUTO_TEST_CASE(growing_in_blocks_gives_the_estimate_of_one_block) {
  const at::Tensor matrix = quadratic_decay(200);
  const DenseOperator a(matrix);
  for (const Probe probe : kProbes) {
    const Estimate grown = xtrace(a, {.samples = 74, .probe = probe, .absolute_error = 1e-30});
    const Estimate whole = xtrace(a, {.samples = 74, .probe = probe});
    BOOST_TEST(std::abs(grown.value - whole.value) < 1e-11);
    BOOST_TEST(std::abs(*grown.standard_error - *whole.standard_error) < 1e-11);
    BOOST_TEST(grown.samples == 37);
  }
}

BOOST_AUTO_TEST_CASE(chunks_change_nothing_beyond_rounding) {
  const DenseOperator a(quadratic_decay(100));
  const auto with = [&](int64_t columns) {
    return EstimateOptions{.samples = 30, .columns_at_once = columns, .random = RandomSource(4)};
  };
  for (const Estimator& estimator : {kHutchPlusPlus, kXTrace}) {
    BOOST_TEST(std::abs(estimator(a, with(1)).value - estimator(a, with(7)).value) < 1e-12);
    BOOST_TEST(estimator(a, with(7)).value == estimator(a, with(7)).value);
  }
  BOOST_TEST(close(xdiag(a, with(1)).values, xdiag(a, with(7)).values, {1e-12}));
}

BOOST_AUTO_TEST_CASE(float32_operators) {
  const at::Tensor matrix = quadratic_decay(300);
  const DenseOperator a(matrix.to(at::kFloat));
  const double trace = matrix.trace().item<double>();
  for (const Estimator& estimator : {kHutchPlusPlus, kXTrace}) {
    const Estimate estimate = estimator(a, {.samples = 90});
    BOOST_TEST(std::abs(estimate.value - trace) <= 5 * *estimate.standard_error + 1e-4);
    BOOST_TEST(*estimate.standard_error < 2e-2);
  }
  const DiagonalEstimate diagonal = xdiag(a, {.samples = 90});
  BOOST_TEST((diagonal.values.scalar_type() == at::kFloat));
  BOOST_TEST((diagonal.values.to(at::kDouble) - matrix.diagonal()).norm().item<double>() < 0.02);
}

BOOST_AUTO_TEST_CASE(the_subspace_of_hutch_plus_plus_is_orthonormal_in_float32) {
  // Seven eigenvalues fit into the subspace: equal ones (columns far from dependent), ones that
  // fall over four decades, and fewer than there are columns.
  const int64_t n = 40000;
  const at::Tensor falling = torch::pow(10.0, -torch::linspace(0, 4, 7, at::kDouble));
  for (const at::Tensor& values :
       {torch::full({7}, 2.0, at::kDouble), falling, torch::tensor({3.0, 1.0}, at::kDouble)}) {
    at::Tensor diagonal = torch::zeros({n}, at::kDouble);
    diagonal.narrow(0, 100, values.size(0)).copy_(values);
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      // Signs, times a diagonal, often depend on each other.
      const Estimate estimate = hutch_plus_plus_trace(curvature::diagonal(diagonal.to(dtype)),
                                                      {.samples = 21, .probe = Probe::kGaussian});
      const double exact = values.sum().item<double>();
      BOOST_TEST(std::abs(estimate.value - exact) <= (dtype == at::kFloat ? 1e-4 : 1e-10) * exact);
      BOOST_TEST(estimate.products == 21);
    }
  }
}

BOOST_AUTO_TEST_CASE(the_observer_sees_all_products) {
  const DenseOperator a(quadratic_decay(60));
  for (const Estimator& estimator : {kHutchPlusPlus, kXTrace}) {
    int64_t last = 0;
    estimator(a, {.samples = 30, .columns_at_once = 4, .observer = [&](const Progress& p) {
                    BOOST_TEST(p.done > last);
                    BOOST_TEST(p.total == 30);
                    last = p.done;
                  }});
    BOOST_TEST(last == 30);
  }
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_typed_errors) {
  const DenseOperator a(laplacian(10));
  BOOST_CHECK_THROW(xtrace(a, {.samples = 1}), OptionError);
  BOOST_CHECK_THROW(xdiag(a, {.samples = 1}), OptionError);
  BOOST_CHECK_THROW(xdiag(a, {.samples = 4, .probe = Probe::kGaussian}), OptionError);
  BOOST_CHECK_THROW(hutch_plus_plus_trace(a, {.samples = 0}), OptionError);
  const OperatorPtr wide = general(random_matrix(2, 3), true);
  BOOST_CHECK_THROW(hutch_plus_plus_trace(wide), ShapeError);
  BOOST_CHECK_THROW(xtrace(wide), ShapeError);
  BOOST_CHECK_THROW(xdiag(wide), ShapeError);
  const at::Tensor broken =
      torch::full({8, 8}, std::numeric_limits<double>::quiet_NaN(), double_options());
  for (const int64_t samples : {6, 100}) {
    BOOST_CHECK_THROW(hutch_plus_plus_trace(DenseOperator(broken), {.samples = samples}),
                      NumericalError);
    BOOST_CHECK_THROW(xtrace(DenseOperator(broken), {.samples = samples}), NumericalError);
    BOOST_CHECK_THROW(xdiag(DenseOperator(broken), {.samples = samples}), NumericalError);
  }
}

BOOST_AUTO_TEST_SUITE_END()
