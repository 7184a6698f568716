#include <cmath>
#include <limits>

#include <curvature/core/error.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/spectral/comparison.hpp>
#include <curvature/spectral/deflation.hpp>
#include <curvature/spectral/density.hpp>
#include <curvature/spectral/eigenpairs.hpp>

#include "spectral/statistics.hpp"
#include "support/dense_operator.hpp"
#include "support/operator_laws.hpp"

BOOST_AUTO_TEST_SUITE(comparison_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

const RandomSource kSource(8);

std::shared_ptr<DenseOperator> shared(const at::Tensor& matrix,
                                      Symmetry symmetry = Symmetry::kSymmetric) {
  return std::make_shared<DenseOperator>(matrix, symmetry);
}

/// Eigenvalues of B^-1 A, ascending, through Cholesky.
at::Tensor relative_eigenvalues(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor factor = torch::linalg_cholesky(b);
  const at::Tensor half = torch::linalg_solve_triangular(factor, a, false);
  return torch::linalg_eigvalsh(torch::linalg_solve_triangular(factor, half.t(), false));
}

double divergence_of(const at::Tensor& ratios) {
  return (0.5 * (ratios - 1 - ratios.log()).sum()).item<double>();
}

at::Tensor positive(int64_t n, uint64_t seed, double low = 0.5, double high = 5) {
  return with_eigenvalues(torch::linspace(low, high, n, at::kDouble), seed);
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_whitened_operator_has_the_relative_spectrum) {
  const int64_t n = 60;
  const at::Tensor a = with_eigenvalues(torch::linspace(-1, 3, n, at::kDouble), 1);
  const at::Tensor b = positive(n, 2);
  const at::Tensor expected = relative_eigenvalues(a, b);
  // Known by its products, and in closed form.
  for (const OperatorPtr& model : {OperatorPtr(shared(b)), dense(b, Symmetry::kPositiveDefinite)}) {
    const OperatorPtr ratio = whitened(shared(a), model);
    BOOST_TEST(ratio->is_symmetric());
    const at::Tensor matrix = materialize(*ratio);
    BOOST_TEST(close(matrix, matrix.t().contiguous(), {1e-8}));
    BOOST_TEST(close(torch::linalg_eigvalsh(matrix), expected, {1e-8}));
    const EigenpairsResult pairs = eigenpairs(ratio, {.count = 3, .count_bottom = 2});
    for (int64_t i = 0; i < 3; ++i) {
      BOOST_TEST(std::abs(pairs.top.values[static_cast<size_t>(i)] -
                          expected[n - 1 - i].item<double>()) < 1e-7);
    }
    const SpectralDensity density =
        spectral_density(ratio, {.num_steps = 20, .num_probes = 2}, kSource);
    BOOST_TEST(density.grid.front() < expected.min().item<double>());
    BOOST_TEST(density.grid.back() > expected.max().item<double>());
  }
  // A perfect model.
  BOOST_TEST(
      close(materialize(*whitened(shared(b), shared(b))), torch::eye(n, double_options()), {1e-8}));
}

BOOST_AUTO_TEST_CASE(the_divergence_has_its_closed_forms) {
  const int64_t n = 40;
  const at::Tensor b = positive(n, 2);
  // N(0, c B) against N(0, B): n / 2 (c - 1 - log c), for every probe.
  for (const double c : {0.25, 1.0, 3.0}) {
    const double expected = 0.5 * static_cast<double>(n) * (c - 1 - std::log(c));
    const Estimate exact = exact_gaussian_divergence(shared(c * b), shared(b));
    BOOST_TEST(std::abs(exact.value - expected) < 1e-10);
    BOOST_TEST(exact.exact);
    BOOST_TEST(exact.products == 2 * n);
    const Estimate estimate = gaussian_divergence(shared(c * b), shared(b), {.samples = 3});
    BOOST_TEST(std::abs(estimate.value - expected) < 1e-6);
    BOOST_TEST(*estimate.standard_error < 1e-6);
  }
  const at::Tensor a = positive(n, 7, 1, 4);
  const double forward = divergence_of(relative_eigenvalues(a, b));
  const double backward = divergence_of(relative_eigenvalues(b, a));
  BOOST_TEST(std::abs(exact_gaussian_divergence(shared(a), shared(b)).value - forward) < 1e-10);
  BOOST_TEST(std::abs(exact_gaussian_divergence(shared(b), shared(a)).value - backward) < 1e-10);
  BOOST_TEST(std::abs(forward - backward) > 0.1);
  // Precisions: the roles change. KL(N(0, A^-1) | N(0, B^-1)) by its definition.
  const at::Tensor ratio = b.matmul(torch::linalg_inv(a));
  const double of_precisions = 0.5 * (ratio.trace().item<double>() - static_cast<double>(n) -
                                      std::get<1>(torch::linalg_slogdet(ratio)).item<double>());
  BOOST_TEST(std::abs(exact_gaussian_divergence(shared(b), shared(a)).value - of_precisions) <
             1e-9);
}

BOOST_AUTO_TEST_CASE(the_divergence_is_estimated_with_its_error) {
  const int64_t n = 100;
  const at::Tensor a = positive(n, 3, 0.5, 2), b = positive(n, 4, 0.5, 2);
  const double exact = exact_gaussian_divergence(shared(a), shared(b)).value;
  for (const bool closed_form : {true, false}) {
    const auto counted = shared(a), counted_b = shared(b);
    const OperatorPtr model =
        closed_form ? dense(b, Symmetry::kPositiveDefinite) : OperatorPtr(counted_b);
    const Estimate estimate =
        gaussian_divergence(counted, model, {.samples = 20, .num_steps = 25, .random = kSource});
    BOOST_TEST(std::abs(estimate.value - exact) <= 4 * *estimate.standard_error);
    BOOST_TEST(*estimate.standard_error < 0.1 * exact);
    BOOST_TEST(*estimate.standard_error > 0);
    BOOST_TEST(estimate.products == counted->products() + counted_b->products());
    BOOST_TEST(counted->products() == 20 * 25);
    BOOST_TEST((counted_b->products() == 0) == closed_form);
  }
  const at::Tensor indefinite = with_eigenvalues(torch::linspace(-1, 2, n, at::kDouble));
  for (const bool swap : {false, true}) {
    const OperatorPtr first = shared(swap ? a : indefinite), second = shared(swap ? indefinite : a);
    BOOST_CHECK_THROW(gaussian_divergence(first, second), NumericalError);
    BOOST_CHECK_THROW(exact_gaussian_divergence(first, second), NumericalError);
  }
}

BOOST_AUTO_TEST_CASE(frobenius_distances) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(6);
  const at::Tensor a = torch::randn({50, 80}, generator, at::kDouble).to(test_device());
  const at::Tensor b = a + 0.1 * torch::randn({50, 80}, generator, at::kDouble).to(test_device());
  const auto first = shared(a, Symmetry::kGeneral), second = shared(b, Symmetry::kGeneral);
  const double distance = (a - b).norm().item<double>(), norm = a.norm().item<double>();
  const FrobeniusDistance exact = exact_frobenius_distance(first, second);
  BOOST_TEST(std::abs(exact.absolute.value - distance) < 1e-10);
  BOOST_TEST(std::abs(exact.relative.value - distance / norm) < 1e-12);
  BOOST_TEST(exact.absolute.exact);
  BOOST_TEST(exact.relative.products == 160);
  BOOST_TEST(first->products() + second->products() == 160);

  const FrobeniusDistance estimate =
      frobenius_distance(first, second, {.samples = 100, .random = kSource});
  BOOST_TEST(first->products() + second->products() == 360);
  BOOST_TEST(estimate.absolute.products == 200);
  BOOST_TEST(std::abs(estimate.absolute.value - distance) <= 4 * *estimate.absolute.standard_error);
  BOOST_TEST(std::abs(estimate.relative.value - distance / norm) <=
             4 * *estimate.relative.standard_error);

  // |error| > 2 standard errors: 6 % of 400 seeds with 20 samples, within 8 to 45.
  int absolute_misses = 0, relative_misses = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    const FrobeniusDistance d =
        frobenius_distance(first, second, {.samples = 20, .random = RandomSource(seed)});
    absolute_misses += std::abs(d.absolute.value - distance) > 2 * *d.absolute.standard_error;
    relative_misses +=
        std::abs(d.relative.value - distance / norm) > 2 * *d.relative.standard_error;
  }
  BOOST_TEST((absolute_misses >= 8 && absolute_misses <= 45));
  BOOST_TEST((relative_misses >= 8 && relative_misses <= 45));

  const FrobeniusDistance none = frobenius_distance(first, first, {.samples = 10});
  BOOST_TEST(none.absolute.value == 0);
  BOOST_TEST(*none.absolute.standard_error == 0);
  // B = 2 A: the relative distance is 1 whatever the probes.
  const FrobeniusDistance twice =
      frobenius_distance(first, shared(2 * a, Symmetry::kGeneral), {.samples = 10});
  BOOST_TEST(std::abs(twice.relative.value - 1) < 1e-12);
  BOOST_TEST(*twice.relative.standard_error < 1e-12);
  const FrobeniusDistance adaptive =
      frobenius_distance(first, second, {.samples = 1000, .relative_error = 0.03});
  BOOST_TEST((adaptive.absolute.termination == Termination::kConverged));
  BOOST_TEST(*adaptive.absolute.standard_error <= 0.03 * adaptive.absolute.value);
  BOOST_TEST(adaptive.absolute.samples < 1000);
}

BOOST_AUTO_TEST_CASE(deflation_drops_the_outliers_from_a_density) {
  const int64_t n = 300;
  const at::Tensor eigenvalues = torch::cat({torch::linspace(-1, 1, n - 3, at::kDouble),
                                             torch::tensor({50.0, 80.0, -40.0}, at::kDouble)});
  const at::Tensor matrix = with_eigenvalues(eigenvalues);
  const OperatorPtr a = shared(matrix);
  const at::Tensor u =
      eigenpairs(a, {.count = 3, .order = EigenvalueOrder::kMagnitude}).top.vectors;
  const OperatorPtr rest = deflated(a, u);
  const at::Tensor projection = torch::eye(n, double_options()) - u.matmul(u.t());
  check_operator_laws(*rest, projection.matmul(matrix).matmul(projection), {.tolerance = 1e-8});
  const QuadratureOptions options{.num_steps = 40, .num_probes = 4};
  const SpectralDensity before = spectral_density(a, options, kSource, {.kappa = 1.1});
  const SpectralDensity after = spectral_density(rest, options, kSource, {.kappa = 1.1});
  BOOST_TEST(before.grid.back() > 80);
  BOOST_TEST(before.grid.front() < -40);
  BOOST_TEST(after.grid.back() < 1.2);
  BOOST_TEST(after.grid.front() > -1.2);
  // The bulk is uniform, with 3 more zeros; it was a single peak before.
  for (size_t i = 0; i < after.grid.size(); ++i) {
    if (std::abs(after.grid[i]) > 0.8 || std::abs(after.grid[i]) < 0.15) continue;
    BOOST_REQUIRE(std::abs(after.values[i] - 0.5) < 0.2);
  }
  // Vectors that are far from accurate still leave a symmetric, definite operator.
  const at::Tensor rough = std::get<0>(torch::linalg_qr(u + 0.1 * matrix.narrow(1, 0, 3)));
  const OperatorPtr positive_part =
      deflated(shared(matrix.matmul(matrix), Symmetry::kPositiveSemidefinite), rough);
  BOOST_TEST((positive_part->spec().symmetry == Symmetry::kPositiveSemidefinite));
  BOOST_TEST(torch::linalg_eigvalsh(materialize(*positive_part)).min().item<double>() > -1e-9);
  // Nothing to deflate.
  BOOST_TEST(close(materialize(*deflated(a, u.narrow(1, 0, 0))), matrix));
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_typed_errors) {
  const OperatorPtr a = shared(laplacian(6));
  const OperatorPtr smaller = shared(laplacian(5));
  const OperatorPtr general = shared(laplacian(6), Symmetry::kGeneral);
  const OperatorPtr single = shared(laplacian(6).to(at::kFloat));
  BOOST_CHECK_THROW(whitened(a, smaller), ShapeError);
  BOOST_CHECK_THROW(whitened(a, single), DtypeDeviceError);
  BOOST_CHECK_THROW(whitened(general, a), NotSupportedError);
  BOOST_CHECK_THROW(whitened(a, general), NotSupportedError);
  BOOST_CHECK_THROW(whitened(a, nullptr), OptionError);
  BOOST_CHECK_THROW(gaussian_divergence(nullptr, a), OptionError);
  BOOST_CHECK_THROW(exact_gaussian_divergence(a, smaller), ShapeError);
  BOOST_CHECK_THROW(exact_gaussian_divergence(a, a, {.columns_at_once = 0}), OptionError);
  BOOST_CHECK_THROW(frobenius_distance(a, smaller), ShapeError);
  BOOST_CHECK_THROW(frobenius_distance(a, single), DtypeDeviceError);
  BOOST_CHECK_THROW(frobenius_distance(a, a, {.samples = 0}), OptionError);
  BOOST_CHECK_THROW(exact_frobenius_distance(a, smaller), ShapeError);
  BOOST_CHECK_THROW(exact_frobenius_distance(a, shared(torch::full({6, 6}, NAN, double_options()))),
                    NumericalError);
  const at::Tensor u = torch::ones({6, 1}, double_options());
  BOOST_CHECK_THROW(deflated(nullptr, u), OptionError);
  BOOST_CHECK_THROW(deflated(general, u), NotSupportedError);
  BOOST_CHECK_THROW(deflated(a, u.narrow(0, 0, 5)), ShapeError);
  BOOST_CHECK_THROW(deflated(a, u.to(at::kFloat)), DtypeDeviceError);
}

BOOST_AUTO_TEST_SUITE_END()
