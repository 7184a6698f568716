#include <cmath>
#include <numeric>

#include <curvature/core/error.hpp>
#include <curvature/spectral/density.hpp>

#include "support/dense_operator.hpp"

BOOST_AUTO_TEST_SUITE(density_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

const RandomSource kSource(11);

/// By the trapezoidal rule, between `low` and `high`.
double area(const Density& density, double low = -1e300, double high = 1e300) {
  double sum = 0;
  for (size_t i = 1; i < density.grid.size(); ++i) {
    if (density.grid[i - 1] < low || density.grid[i] > high) continue;
    sum +=
        (density.grid[i] - density.grid[i - 1]) * (density.values[i] + density.values[i - 1]) / 2;
  }
  return sum;
}

void check_sane(const Density& density, size_t num_points = 1024) {
  BOOST_TEST(density.grid.size() == num_points);
  BOOST_TEST(density.values.size() == num_points);
  BOOST_TEST(std::abs(area(density) - 1) < 1e-12);
  for (size_t i = 0; i < num_points; ++i) {
    BOOST_REQUIRE(std::isfinite(density.values[i]));
    BOOST_REQUIRE(density.values[i] >= 0);
    if (i > 0) BOOST_REQUIRE(density.grid[i] > density.grid[i - 1]);
  }
}

double moment(const Quadrature& quadrature, int power) {
  double sum = 0;
  for (size_t k = 0; k < quadrature.nodes.size(); ++k) {
    sum += quadrature.weights[k] * std::pow(quadrature.nodes[k], power);
  }
  return sum;
}

/// Integral of |F - G| over a fine grid, F the estimate and G the distribution of `eigenvalues`.
double wasserstein(const std::vector<Quadrature>& quadratures, const at::Tensor& eigenvalues) {
  const at::Tensor exact = eigenvalues.to(at::kCPU).contiguous();
  const double low = exact.min().item<double>() - 0.1, high = exact.max().item<double>() + 0.1;
  const int64_t num_points = 20001;
  const at::Tensor points = torch::linspace(low, high, num_points, at::kDouble);
  const double* data = points.const_data_ptr<double>();
  const auto estimate = cumulative_distribution(quadratures, {data, data + num_points}).values;
  const at::Tensor truth = torch::searchsorted(exact, points, false, true).to(at::kDouble) /
                           static_cast<double>(exact.numel());
  return (torch::tensor(estimate, at::kDouble) - truth).abs().mean().item<double>() * (high - low);
}

}  // namespace

BOOST_AUTO_TEST_CASE(quadrature_is_exact_for_polynomials_up_to_degree_2m_minus_1) {
  const at::Tensor matrix = with_eigenvalues(torch::linspace(-1, 1.5, 200, at::kDouble));
  const DenseOperator a(matrix);
  const int m = 4;
  const auto quadratures = lanczos_quadratures(a, {.num_steps = m, .num_probes = 3}, kSource);
  BOOST_TEST(a.products() == 3 * m);
  for (int64_t i = 0; i < 3; ++i) {
    const Quadrature& quadrature = quadratures.at(static_cast<size_t>(i));
    BOOST_TEST(quadrature.nodes.size() == size_t{m});
    BOOST_TEST(!quadrature.exact);
    const at::Tensor z =
        draw_probes(kSource, Probe::kRademacher, 200, i, 1, double_options()).squeeze(1);
    at::Tensor power = z;
    for (int degree = 0; degree <= 2 * m; ++degree) {
      const double exact = (z.dot(power) / z.dot(z)).item<double>();
      const double error = std::abs(moment(quadrature, degree) - exact);
      if (degree < 2 * m) {
        BOOST_TEST(error < 1e-13);
      } else {
        BOOST_TEST(error > 1e-6);  // so the claim above is sharp
      }
      power = matrix.matmul(power);
    }
  }
}

BOOST_AUTO_TEST_CASE(moments_are_unbiased_for_each_kind_of_probe) {
  // For signs Var(z^T A z) = 2 (|A|_F^2 - sum a_ii^2), on the sphere 2 n / (n + 2) (|A|_F^2 -
  // tr(A)^2 / n); normalised Gaussian vectors are the sphere. Within 5 standard errors but for one
  // seed in 1.7 million.
  const int64_t n = 100;
  const int num_probes = 400;
  const at::Tensor matrix = with_eigenvalues(torch::linspace(-1, 3, n, at::kDouble));
  const double frobenius = matrix.square().sum().item<double>();
  const double trace = matrix.trace().item<double>();
  const double signs = 2 * (frobenius - matrix.diagonal().square().sum().item<double>());
  const double sphere = 2.0 * n / (n + 2.0) * (frobenius - trace * trace / n);
  for (const Probe probe : {Probe::kRademacher, Probe::kGaussian, Probe::kSphere}) {
    const auto quadratures = lanczos_quadratures(
        DenseOperator(matrix), {.num_steps = 2, .num_probes = num_probes, .probe = probe}, kSource);
    double mean = 0;
    for (const Quadrature& quadrature : quadratures) mean += moment(quadrature, 1) / num_probes;
    const double variance = probe == Probe::kRademacher ? signs : sphere;
    BOOST_TEST(std::abs(mean * n - trace) <= 5 * std::sqrt(variance / num_probes));
  }
}

BOOST_AUTO_TEST_CASE(the_distribution_of_the_laplacian_converges) {
  const int64_t n = 1000;
  const DenseOperator a(laplacian(n));
  for (const int m : {10, 20}) {
    const auto quadratures = lanczos_quadratures(a, {.num_steps = m, .num_probes = 10}, kSource);
    // Measured over seeds: about 0.25 / m.
    BOOST_TEST(wasserstein(quadratures, laplacian_eigenvalues(n)) / 4 < 0.5 / m);
  }
}

BOOST_AUTO_TEST_CASE(an_invariant_krylov_space_gives_the_exact_measure_of_its_probe) {
  const at::Tensor eigenvalues =
      torch::cat({torch::full({30}, -1.0, at::kDouble), torch::full({70}, 2.0, at::kDouble)});
  const auto quadratures =
      lanczos_quadratures(DenseOperator(eigenvalues.to(test_device()).diag()), {}, kSource);
  for (const Quadrature& quadrature : quadratures) {
    BOOST_TEST(quadrature.exact);
    BOOST_TEST(quadrature.nodes.size() == 2u);
    // A diagonal matrix and signs: every probe weighs all eigenvalues equally.
    BOOST_TEST(std::abs(quadrature.weights[0] - 0.3) < 1e-13);
    BOOST_TEST(std::abs(quadrature.nodes[1] - 2) < 1e-13);
  }
  const auto distribution = cumulative_distribution(quadratures, {-1.5, -0.5, 1.5, 2.5}).values;
  const std::vector<double> expected{0, 0.3, 0.3, 1};
  for (size_t i = 0; i < 4; ++i) BOOST_TEST(std::abs(distribution[i] - expected[i]) < 1e-13);
}

BOOST_AUTO_TEST_CASE(steps_are_clipped_to_the_dimension_and_then_exact) {
  const DenseOperator a(laplacian(7));
  const SpectralDensity density = spectral_density(a, {.num_probes = 2}, kSource);
  BOOST_TEST(density.products == a.products());
  BOOST_TEST(density.products <= 14);
  BOOST_TEST(density.quadratures.size() == 2u);
  BOOST_TEST(density.quadratures[0].exact);
  check_sane(density);
}

BOOST_AUTO_TEST_CASE(the_linear_density_of_the_laplacian_is_the_arcsine_law) {
  // The nodes lie wider than evenly in the middle, so the default kernel leaves ripples.
  const SpectralDensity density = spectral_density(
      DenseOperator(laplacian(1000)), {.num_steps = 60, .num_probes = 20}, kSource, {.kappa = 1.1});
  check_sane(density);
  BOOST_TEST(density.standard_errors.size() == density.values.size());
  BOOST_TEST(density.grid.front() < 0);
  BOOST_TEST(density.grid.back() > 4);
  for (size_t i = 0; i < density.grid.size(); ++i) {
    const double x = density.grid[i];
    if (x < 1 || x > 3) continue;
    const double exact = 1 / (M_PI * std::sqrt(x * (4 - x)));
    BOOST_TEST(std::abs(density.values[i] - exact) < 0.05 * exact + 5 * density.standard_errors[i]);
  }
  BOOST_TEST(std::abs(area(density, -1, 2) - 0.5) < 0.02);
}

BOOST_AUTO_TEST_CASE(the_logarithmic_density_resolves_magnitudes_and_is_per_unit_of_the_grid) {
  const at::Tensor eigenvalues =
      torch::cat({torch::full({40}, 1e-3, at::kDouble), torch::full({35}, -1.0, at::kDouble),
                  torch::full({25}, 50.0, at::kDouble)});
  const SpectralDensity density =
      spectral_density(DenseOperator(eigenvalues.to(test_device()).diag()), {.num_probes = 2},
                       kSource, {.scale = DensityScale::kLog});
  check_sane(density);
  BOOST_TEST(density.grid.front() > 0);
  BOOST_TEST(std::abs(area(density, 0, 0.03) - 0.40) < 1e-3);
  BOOST_TEST(std::abs(area(density, 0.03, 7) - 0.35) < 1e-3);
  BOOST_TEST(std::abs(area(density, 7) - 0.25) < 1e-2);
  const double first_ratio = density.grid[1] / density.grid[0];
  BOOST_TEST(std::abs(density.grid[1023] / density.grid[1022] - first_ratio) < 1e-9);
}

BOOST_AUTO_TEST_CASE(degenerate_spectra_give_a_peak_of_area_one) {
  for (const double value : {0.0, 1.0, -1e-8, 1e8}) {
    for (const DensityScale scale : {DensityScale::kLinear, DensityScale::kLog}) {
      const DenseOperator a(value * torch::eye(20, double_options()));
      const SpectralDensity density = spectral_density(a, {}, kSource, {.scale = scale});
      check_sane(density);
      BOOST_TEST(density.products == 10);
      const auto peak = std::max_element(density.values.begin(), density.values.end());
      const double at = density.grid[static_cast<size_t>(peak - density.values.begin())];
      const double expected = scale == DensityScale::kLog ? std::abs(value) + 1e-5 : value;
      const double width = (density.grid.back() - density.grid.front()) / 2;
      BOOST_TEST(std::abs(at - expected) < 0.2 * width);
      for (const double error : density.standard_errors) BOOST_REQUIRE(error < 1e-10 * *peak);
    }
  }
  check_sane(
      spectral_density(DenseOperator(torch::full({1, 1}, 3.0, double_options())), {}, kSource));
}

BOOST_AUTO_TEST_CASE(coarse_grids_margins_and_narrow_kernels_keep_the_area) {
  const auto quadratures = lanczos_quadratures(DenseOperator(laplacian(100)), {}, kSource);
  check_sane(smooth(quadratures, {.num_points = 2}), 2);
  check_sane(smooth(quadratures, {.num_points = 37, .kappa = 1e6}), 37);
  check_sane(smooth(quadratures, {.margin = 0}));
  check_sane(smooth(quadratures, {.scale = DensityScale::kLog, .margin = 0, .epsilon = 1.0}));
  // A larger kappa is a narrower kernel, so a rougher density.
  const auto roughness = [&](double kappa) {
    const Density density = smooth(quadratures, {.kappa = kappa});
    double sum = 0;
    for (size_t i = 1; i < density.values.size(); ++i) {
      sum += std::abs(density.values[i] - density.values[i - 1]);
    }
    return sum;
  };
  BOOST_TEST(roughness(100) > roughness(1.1));
}

BOOST_AUTO_TEST_CASE(standard_errors_are_those_of_the_mean_over_probes) {
  const auto quadratures = lanczos_quadratures(DenseOperator(laplacian(100)),
                                               {.num_steps = 20, .num_probes = 4}, kSource);
  const Density all = smooth(quadratures);
  // Two copies of each probe: the same density, and a sum of squares that doubles.
  std::vector<Quadrature> twice = quadratures;
  twice.insert(twice.end(), quadratures.begin(), quadratures.end());
  const Density doubled = smooth(twice);
  for (size_t i = 0; i < all.values.size(); ++i) {
    BOOST_TEST(std::abs(doubled.values[i] - all.values[i]) < 1e-12);
    BOOST_TEST(std::abs(doubled.standard_errors[i] - all.standard_errors[i] * std::sqrt(3.0 / 7)) <
               1e-12);
  }
  BOOST_TEST(smooth({quadratures[0]}).standard_errors.empty());
}

BOOST_AUTO_TEST_CASE(standard_errors_predict_the_spread_over_seeds) {
  // The spread over 100 independent estimates has a relative error of 7 %, the mean of 100
  // estimated variances of 9 probes about 5 %: a ratio off by a third is beyond 3 sigma.
  const DenseOperator a(with_eigenvalues(torch::linspace(0, 1, 60, at::kDouble)));
  double sum = 0, squares = 0, variance = 0;
  const int num_seeds = 100;
  for (int seed = 0; seed < num_seeds; ++seed) {
    const auto quadratures = lanczos_quadratures(a, {.num_steps = 10, .num_probes = 9},
                                                 RandomSource(static_cast<uint64_t>(seed)));
    const Density density = smooth(quadratures, {.num_points = 65, .kappa = 1.5});
    sum += density.values[32];
    squares += density.values[32] * density.values[32];
    variance += density.standard_errors[32] * density.standard_errors[32] / num_seeds;
  }
  const double spread = (squares - sum * sum / num_seeds) / (num_seeds - 1);
  BOOST_TEST(std::sqrt(variance / spread) > 0.67);
  BOOST_TEST(std::sqrt(variance / spread) < 1.5);
}

BOOST_AUTO_TEST_CASE(standard_errors_of_the_distribution_cover_the_truth) {
  // F of the Laplacian by symmetry: 1/2 at 2. Over 200 seeds with 20 probes each, |F - 1/2| exceeds
  // 2 standard errors in 6 % (t distribution, 19 degrees of freedom); between 2 and 26 times with
  // probability 0.9997.
  const DenseOperator a(laplacian(40));
  int misses = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const auto distribution = cumulative_distribution(
        lanczos_quadratures(a, {.num_steps = 40, .num_probes = 20, .probes_at_once = 20},
                            RandomSource(seed)),
        {2.0});
    misses += std::abs(distribution.values[0] - 0.5) > 2 * distribution.standard_errors[0];
  }
  BOOST_TEST(misses >= 2);
  BOOST_TEST(misses <= 26);
  const auto single = lanczos_quadratures(a, {.num_probes = 1}, kSource);
  BOOST_TEST(cumulative_distribution(single, {1.0}).standard_errors.empty());
}

BOOST_AUTO_TEST_CASE(probes_at_once_change_nothing_beyond_rounding) {
  // Half of the space is invariant for signs, so that runs end at different steps.
  const DenseOperator a(torch::block_diag({laplacian(30), 3 * torch::eye(30, double_options())}));
  for (const bool reorthogonalize : {true, false}) {
    const QuadratureOptions alone{
        .num_steps = 12, .num_probes = 7, .reorthogonalize = reorthogonalize};
    QuadratureOptions together = alone;
    together.probes_at_once = 3;
    const auto expected = lanczos_quadratures(a, alone, kSource);
    const auto actual = lanczos_quadratures(a, together, kSource);
    BOOST_TEST(actual.size() == 7u);
    for (size_t i = 0; i < 7; ++i) {
      BOOST_TEST(close(torch::tensor(actual[i].nodes, at::kDouble),
                       torch::tensor(expected[i].nodes, at::kDouble), {1e-10}));
      BOOST_TEST(close(torch::tensor(actual[i].weights, at::kDouble),
                       torch::tensor(expected[i].weights, at::kDouble), {1e-10}));
    }
  }
  int64_t last = 0;
  const auto watch = [&](const Progress& progress) {
    BOOST_TEST(progress.done == last + 1);
    BOOST_TEST(progress.total == 84);
    last = progress.done;
  };
  lanczos_quadratures(a, {.num_steps = 12, .num_probes = 7, .probes_at_once = 3, .observer = watch},
                      kSource);
  BOOST_TEST(last == 84);
}

BOOST_AUTO_TEST_CASE(a_probe_depends_on_the_seed_and_its_number_only) {
  const DenseOperator a(laplacian(50));
  const auto three = lanczos_quadratures(a, {.num_steps = 10, .num_probes = 3}, kSource);
  const auto five = lanczos_quadratures(a, {.num_steps = 10, .num_probes = 5}, kSource);
  for (size_t i = 0; i < 3; ++i) {
    BOOST_TEST((three[i].nodes == five[i].nodes && three[i].weights == five[i].weights));
  }
  BOOST_TEST((five[3].nodes != five[4].nodes));
  const auto other = lanczos_quadratures(a, {.num_steps = 10, .num_probes = 1}, RandomSource(12));
  BOOST_TEST((other[0].nodes != three[0].nodes));
}

BOOST_AUTO_TEST_CASE(float32_operators_give_the_same_density) {
  const at::Tensor matrix = with_eigenvalues(torch::linspace(-1, 3, 300, at::kDouble));
  const QuadratureOptions options{.num_steps = 20, .num_probes = 5};
  const SpectralDensity exact = spectral_density(DenseOperator(matrix), options, kSource);
  const SpectralDensity single =
      spectral_density(DenseOperator(matrix.to(at::kFloat)), options, kSource);
  check_sane(single);
  BOOST_TEST(close(torch::tensor(single.values, at::kDouble),
                   torch::tensor(exact.values, at::kDouble), {1e-3}));
}

BOOST_AUTO_TEST_CASE(without_reorthogonalisation_the_measure_is_the_same) {
  const DenseOperator a(with_eigenvalues(
      torch::cat({torch::linspace(0, 1, 399, at::kDouble), torch::full({1}, 100.0, at::kDouble)})));
  const auto distance = [&](bool reorthogonalize) {
    const auto quadratures = lanczos_quadratures(
        a, {.num_steps = 50, .num_probes = 1, .reorthogonalize = reorthogonalize}, kSource);
    return cumulative_distribution(quadratures, {0.25, 0.5, 50, 101}).values;
  };
  const auto with = distance(true), without = distance(false);
  for (size_t i = 0; i < with.size(); ++i) BOOST_TEST(std::abs(with[i] - without[i]) < 0.06);
  BOOST_TEST(std::abs(with[2] - without[2]) < 1e-10);
}

BOOST_AUTO_TEST_CASE(the_observer_sees_all_steps_and_cancels_by_an_exception) {
  struct Cancelled {};
  const DenseOperator a(laplacian(50));
  int64_t last = 0;
  const auto watch = [&](const Progress& progress) {
    BOOST_TEST(progress.done == last + 1);
    BOOST_TEST(progress.total == 30);
    last = progress.done;
  };
  spectral_density(a, {.num_steps = 10, .num_probes = 3, .observer = watch}, kSource);
  BOOST_TEST(last == 30);
  const auto cancel = [](const Progress& progress) {
    if (progress.done == 12) throw Cancelled{};
  };
  BOOST_CHECK_THROW(
      spectral_density(a, {.num_steps = 10, .num_probes = 3, .observer = cancel}, kSource),
      Cancelled);
}

BOOST_AUTO_TEST_CASE(a_shared_operator_is_taken_as_it_is) {
  const OperatorPtr a = std::make_shared<DenseOperator>(laplacian(20));
  BOOST_TEST((spectral_density(a, {}, kSource).values == spectral_density(*a, {}, kSource).values));
  BOOST_CHECK_THROW(spectral_density(OperatorPtr(), {}, kSource), OptionError);
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_typed_errors) {
  const DenseOperator a(laplacian(10));
  BOOST_CHECK_THROW(lanczos_quadratures(a, {.num_steps = 0}, kSource), OptionError);
  BOOST_CHECK_THROW(lanczos_quadratures(a, {.num_probes = 0}, kSource), OptionError);
  BOOST_CHECK_THROW(lanczos_quadratures(a, {.probes_at_once = 0}, kSource), OptionError);
  BOOST_CHECK_THROW(
      lanczos_quadratures(DenseOperator(laplacian(10), Symmetry::kGeneral), {}, kSource),
      NotSupportedError);
  const auto quadratures = lanczos_quadratures(a, {}, kSource);
  BOOST_CHECK_THROW(smooth({}), OptionError);
  BOOST_CHECK_THROW(smooth(quadratures, {.num_points = 1}), OptionError);
  BOOST_CHECK_THROW(smooth(quadratures, {.kappa = 1.0}), OptionError);
  BOOST_CHECK_THROW(smooth(quadratures, {.margin = -0.1}), OptionError);
  BOOST_CHECK_THROW(smooth(quadratures, {.epsilon = 0}), OptionError);
  BOOST_CHECK_THROW(cumulative_distribution({}, {1.0}), OptionError);
}

BOOST_AUTO_TEST_CASE(an_empty_operator_has_no_density) {
  const DenseOperator a(torch::zeros({0, 0}, double_options()));
  BOOST_CHECK_THROW(spectral_density(a, {}, RandomSource(1)), ShapeError);
}

BOOST_AUTO_TEST_SUITE_END()
