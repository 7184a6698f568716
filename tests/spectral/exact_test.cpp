#include <cmath>
#include <limits>

#include <curvature/core/error.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/decorators.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/eigen_decomposed.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/operators/kronecker.hpp>
#include <curvature/operators/low_rank.hpp>
#include <curvature/spectral/exact.hpp>

#include "support/dense_operator.hpp"

BOOST_AUTO_TEST_SUITE(exact_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

bool near(double actual, double expected, double tolerance = 1e-10) {
  return std::abs(actual - expected) <= tolerance * std::max(1.0, std::abs(expected));
}

/// log det of the Hilbert matrix from det = c^4 / c_2n with c_k = prod_{i < k} i!.
double hilbert_log_determinant(int n) {
  const auto log_c = [](int k) {
    double sum = 0;
    for (int i = 1; i < k; ++i) sum += std::lgamma(i + 1.0);
    return sum;
  };
  return 4 * log_c(n) - log_c(2 * n);
}

at::Tensor hilbert(int64_t n) {
  const at::Tensor i = torch::arange(1, n + 1, double_options());
  return (i.unsqueeze(0) + i.unsqueeze(1) - 1).reciprocal();
}

at::Tensor random_matrix(int64_t rows, int64_t cols, uint64_t seed = 3) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  return torch::randn({rows, cols}, generator, at::kDouble).to(test_device());
}

void check_exact(const Estimate& estimate, double expected, int64_t products,
                 double tolerance = 1e-10) {
  BOOST_TEST(near(estimate.value, expected, tolerance));
  BOOST_TEST(estimate.exact);
  BOOST_TEST(!estimate.standard_error.has_value());
  BOOST_TEST(estimate.samples == 0);
  BOOST_TEST(estimate.products == products);
  BOOST_TEST((estimate.termination == Termination::kConverged));
}

}  // namespace

BOOST_AUTO_TEST_CASE(the_laplacian_knows_its_answers) {
  for (const int64_t n : {1, 2, 17, 150}) {
    const DenseOperator a(laplacian(n));
    const auto size = static_cast<double>(n);
    check_exact(exact_trace(a), 2 * size, n);
    const FrobeniusEstimate norm = exact_frobenius_norm(a);
    check_exact(norm.squared_norm, 6 * size - 2, n);
    check_exact(norm.norm, std::sqrt(6 * size - 2), n);
    check_exact(exact_log_determinant(a), std::log(size + 1), n);
    check_exact(exact_trace_of_function(a, [](double x) { return 1 / x; }), size * (size + 2) / 6,
                n);
    const DiagonalEstimate diagonal = exact_diagonal(a);
    BOOST_TEST(close(diagonal.values, torch::full({n}, 2.0, double_options())));
    BOOST_TEST(diagonal.exact);
    BOOST_TEST(diagonal.products == n);
    BOOST_TEST(a.products() == 5 * n);

    const DenseOperator shifted(laplacian(n) + 0.1 * torch::eye(n, double_options()));
    const double t = std::acosh(1.05);
    check_exact(exact_log_determinant(shifted), std::log(std::sinh((size + 1) * t) / std::sinh(t)),
                n);
  }
}

BOOST_AUTO_TEST_CASE(other_matrices_that_know_their_determinant) {
  const at::Tensor d = torch::arange(1, 31, double_options());
  check_exact(exact_log_determinant(DenseOperator(d.diag())), std::lgamma(31.0), 30);
  // det(D + u u^T) = det D (1 + u^T D^-1 u).
  const at::Tensor u = random_matrix(30, 1);
  check_exact(exact_log_determinant(DenseOperator(d.diag() + u.matmul(u.t()))),
              std::lgamma(31.0) + std::log1p((u.square().squeeze(1) / d).sum().item<double>()), 30);
  // Condition 1.5e10: eps times that is what is left of the smallest eigenvalue.
  check_exact(exact_log_determinant(DenseOperator(hilbert(8))), hilbert_log_determinant(8), 8,
              1e-6);
  // Wishart, against LAPACK's LU decomposition.
  const at::Tensor x = random_matrix(80, 40);
  const at::Tensor wishart = x.t().matmul(x) / 80;
  check_exact(exact_log_determinant(DenseOperator(wishart)),
              std::get<1>(torch::linalg_slogdet(wishart)).item<double>(), 40);
}

BOOST_AUTO_TEST_CASE(effective_dimensions_of_a_grid_cost_one_spectrum) {
  const at::Tensor eigenvalues =
      torch::cat({torch::zeros({10}, at::kDouble), torch::linspace(1e-6, 3, 30, at::kDouble)});
  const DenseOperator a(with_eigenvalues(eigenvalues));
  const std::vector<double> dampings{1e-6, 1e-2, 1, 1e3};
  const std::vector<Estimate> estimates = exact_effective_dimension(a, dampings);
  BOOST_TEST(a.products() == 40);
  for (size_t i = 0; i < dampings.size(); ++i) {
    check_exact(estimates[i], (eigenvalues / (eigenvalues + dampings[i])).sum().item<double>(), 40,
                1e-8);
  }
}

BOOST_AUTO_TEST_CASE(closed_forms_cost_nothing) {
  const at::Tensor d = torch::linspace(0.5, 3, 12, double_options());
  const at::Tensor spd = with_eigenvalues(torch::linspace(1, 2, 4, at::kDouble));
  const at::Tensor u = random_matrix(12, 2);
  const std::vector<OperatorPtr> operators{
      curvature::diagonal(d),
      dense(with_eigenvalues(torch::linspace(1, 5, 12, at::kDouble)), Symmetry::kPositiveDefinite),
      kronecker({spd, with_eigenvalues(torch::linspace(2, 3, 3, at::kDouble))},
                Symmetry::kPositiveDefinite),
      eigen_decomposed(std::get<0>(torch::linalg_qr(random_matrix(12, 12))), d),
      low_rank_plus_diagonal(torch::ones({12}, double_options()), u,
                             torch::ones({2}, double_options()), Symmetry::kPositiveDefinite)};
  for (const OperatorPtr& a : operators) {
    const auto counter = std::make_shared<std::atomic<int64_t>>(0);
    const OperatorPtr counted = counting(a, counter);
    const at::Tensor matrix = materialize(*a);
    const at::Tensor eigenvalues = torch::linalg_eigvalsh(matrix);
    check_exact(exact_trace(counted), matrix.trace().item<double>(), 0);
    check_exact(exact_frobenius_norm(counted).norm, matrix.norm().item<double>(), 0);
    check_exact(exact_log_determinant(counted), eigenvalues.log().sum().item<double>(), 0);
    check_exact(exact_effective_dimension(counted, {0.3}).front(),
                (eigenvalues / (eigenvalues + 0.3)).sum().item<double>(), 0);
    const DiagonalEstimate found = exact_diagonal(counted);
    BOOST_TEST(close(found.values, matrix.diagonal()));
    BOOST_TEST(found.products == 0);
    BOOST_TEST(counter->load() == 0);
  }
}

BOOST_AUTO_TEST_CASE(rectangular_norms_take_the_smaller_side) {
  const at::Tensor matrix = random_matrix(7, 20);
  const OperatorSpec spec{
      .domain = Space::flat(20), .range = Space::flat(7), .device = matrix.device()};
  const MatrixMap apply = [matrix](const at::Tensor& x) { return matrix.matmul(x); };
  const MatrixMap adjoint = [matrix](const at::Tensor& x) { return matrix.t().matmul(x); };
  check_exact(exact_frobenius_norm(function_operator(spec, apply, adjoint)).norm,
              matrix.norm().item<double>(), 7);
  check_exact(exact_frobenius_norm(function_operator(spec, apply)).norm,
              matrix.norm().item<double>(), 20);
}

BOOST_AUTO_TEST_CASE(determinants_of_operators_that_are_not_definite_are_refused) {
  // An even number of negative eigenvalues: the determinant is positive, the operator is not.
  const at::Tensor indefinite = with_eigenvalues(torch::linspace(-3, 3, 6, at::kDouble));
  const at::Tensor singular = with_eigenvalues(torch::arange(0, 6, at::kDouble));
  for (const at::Tensor& matrix : {indefinite, singular, torch::zeros_like(singular)}) {
    BOOST_CHECK_THROW(exact_log_determinant(DenseOperator(matrix)), NumericalError);
    BOOST_CHECK_THROW(exact_log_determinant(dense(matrix, Symmetry::kSymmetric)), NumericalError);
  }
  BOOST_CHECK_THROW(exact_log_determinant(dense(singular, Symmetry::kPositiveSemidefinite)),
                    NumericalError);
  // Positive by rounding only, and small but known.
  const auto two = [](double smallest) {
    return DenseOperator(torch::tensor({1.0, smallest}, double_options()).diag());
  };
  BOOST_CHECK_THROW(exact_log_determinant(two(1e-17)), NumericalError);
  check_exact(exact_log_determinant(two(1e-13)), std::log(1e-13), 2);
  BOOST_CHECK_EXCEPTION(exact_effective_dimension(DenseOperator(indefinite), {1.0}), NumericalError,
                        [](const NumericalError& error) {
                          const std::string what = error.what();  // damping is its argument
                          return what.find("add damping") == std::string::npos &&
                                 what.find("GGN") != std::string::npos;
                        });
  check_exact(exact_effective_dimension(DenseOperator(torch::zeros_like(singular)), {1.0}).front(),
              0, 6);
}

BOOST_AUTO_TEST_CASE(columns_at_once_and_float32) {
  const at::Tensor matrix = with_eigenvalues(torch::linspace(1, 3, 33, at::kDouble));
  for (const int64_t columns : {1, 5, 64}) {
    int64_t last = 0;
    const ExactOptions options{.columns_at_once = columns,
                               .observer = [&](const Progress& progress) {
                                 BOOST_TEST(progress.total == 33);
                                 last = progress.done;
                               }};
    check_exact(exact_trace(DenseOperator(matrix), options), matrix.trace().item<double>(), 33);
    BOOST_TEST(last == 33);
    check_exact(exact_frobenius_norm(DenseOperator(matrix), options).norm,
                matrix.norm().item<double>(), 33);
    check_exact(exact_log_determinant(DenseOperator(matrix.to(at::kFloat)), options),
                torch::linalg_eigvalsh(matrix).log().sum().item<double>(), 33, 1e-5);
  }
  BOOST_TEST(
      (exact_diagonal(DenseOperator(matrix.to(at::kFloat))).values.scalar_type() == at::kFloat));
}

BOOST_AUTO_TEST_CASE(bad_arguments_are_typed_errors) {
  const DenseOperator a(laplacian(5));
  const DenseOperator general(laplacian(5), Symmetry::kGeneral);
  BOOST_CHECK_THROW(exact_trace(DenseOperator(random_matrix(2, 3), Symmetry::kGeneral)),
                    ShapeError);
  BOOST_CHECK_EXCEPTION(exact_trace(DenseOperator(torch::zeros({0, 0}, double_options()))),
                        ShapeError, [](const ShapeError& error) {
                          return std::string(error.what()).find("empty") != std::string::npos;
                        });
  BOOST_CHECK_THROW(exact_trace(a, {.columns_at_once = 0}), OptionError);
  BOOST_CHECK_THROW(exact_log_determinant(general), NotSupportedError);
  BOOST_CHECK_THROW(exact_effective_dimension(a, {}), OptionError);
  BOOST_CHECK_THROW(exact_effective_dimension(a, {1.0, 0.0}), OptionError);
  BOOST_CHECK_THROW(exact_effective_dimension(a, {-1.0}), OptionError);
  BOOST_CHECK_THROW(exact_trace_of_function(a, {}), OptionError);
  BOOST_CHECK_THROW(exact_trace_of_function(a, [](double) { return NAN; }), NumericalError);
  const DenseOperator broken(torch::full({4, 4}, INFINITY, double_options()));
  BOOST_CHECK_THROW(exact_trace(broken), NumericalError);
  BOOST_CHECK_THROW(exact_frobenius_norm(broken), NumericalError);
  BOOST_CHECK_THROW(exact_log_determinant(broken), NumericalError);
  // A matrix of 2^36 entries is not formed.
  const OperatorSpec huge{.domain = Space::flat(1 << 18),
                          .range = Space::flat(1 << 18),
                          .device = test_device(),
                          .symmetry = Symmetry::kSymmetric};
  const OperatorPtr identity_map =
      function_operator(huge, MatrixMap([](const at::Tensor& x) { return x.clone(); }));
  BOOST_CHECK_THROW(exact_log_determinant(identity_map), NotSupportedError);
}

BOOST_AUTO_TEST_SUITE_END()
