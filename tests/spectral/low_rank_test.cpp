#include <cmath>
#include <numeric>

#include <curvature/core/error.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/spectral/low_rank.hpp>

#include "support/dense_operator.hpp"
#include "support/operator_laws.hpp"
#include "support/solver_laws.hpp"

BOOST_AUTO_TEST_SUITE(low_rank_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// 1 / i^2.
at::Tensor falling(int64_t n) { return numbers(1, double(n), n).pow(-2); }

at::Tensor values_of(const Eigenpairs& pairs) {
  return torch::tensor(pairs.values, double_options());
}

/// Residuals are the true ones, vectors orthonormal.
void check_pairs(const DenseOperator& a, const Eigenpairs& pairs, double tolerance = 1e-10) {
  const at::Tensor u = pairs.vectors.to(at::kDouble);
  const auto k = static_cast<int64_t>(pairs.values.size());
  BOOST_TEST(u.sizes() == c10::IntArrayRef({a.rows(), k}));
  BOOST_TEST(close(u.t().matmul(u), torch::eye(k, double_options()), {tolerance, 0}));
  const at::Tensor residuals =
      (a.matrix().to(at::kDouble).matmul(u) - u * values_of(pairs)).norm(2, {0});
  BOOST_TEST(close(torch::tensor(pairs.residuals, double_options()), residuals,
                   {1e-3, tolerance * a.matrix().norm().item<double>()}));
}

/// sqrt of the sum of squares after the first k.
double tail(const at::Tensor& values, int64_t k) {
  return values.narrow(0, k, values.size(0) - k).norm().item<double>();
}

}  // namespace

BOOST_AUTO_TEST_CASE(singular_values_of_rectangular_operators) {
  const at::Tensor u = std::get<0>(torch::linalg_qr(normal_matrix(80, 40, 1)));
  const at::Tensor v = std::get<0>(torch::linalg_qr(normal_matrix(50, 40, 2)));
  const at::Tensor s = falling(40);
  for (const at::Tensor& matrix : {(u * s).matmul(v.t()), (v * s).matmul(u.t())}) {
    const OperatorPtr a = dense(matrix);
    const SingularTriplets found = randomized_svd(a, {.rank = 6, .power_iterations = 4});
    BOOST_TEST(close(torch::tensor(found.values, double_options()), s.narrow(0, 0, 6), {1e-8, 0}));
    BOOST_TEST(found.products == (2 * 4 + 2) * 16 + 6);
    const at::Tensor values = torch::tensor(found.values, double_options());
    const at::Tensor eye = torch::eye(6, double_options());
    BOOST_TEST(close(found.left.t().matmul(found.left), eye, {1e-12, 0}));
    BOOST_TEST(close(found.right.t().matmul(found.right), eye, {1e-12, 0}));
    BOOST_TEST(close(matrix.t().matmul(found.left), found.right * values, {1e-12, 0}));
    BOOST_TEST(close(torch::tensor(found.residuals, double_options()),
                     (matrix.matmul(found.right) - found.left * values).norm(2, {0}),
                     {1e-6, 1e-14}));
  }
  // More than there is: everything, exactly.
  const at::Tensor small = normal_matrix(5, 3);
  const SingularTriplets all = randomized_svd(dense(small), {.rank = 10});
  BOOST_TEST(close((all.left * torch::tensor(all.values, double_options())).matmul(all.right.t()),
                   small, {1e-12, 0}));
}

BOOST_AUTO_TEST_CASE(the_range_finder_keeps_its_bound) {
  // E |A - Q Q^T A|_F <= sqrt(1 + k / (p - 1)) tail_F, over 40 seeds; the mean must stay below.
  const int64_t n = 100, k = 6, p = 4;
  const at::Tensor s = falling(n);
  const at::Tensor matrix = with_eigenvalues(s);
  double mean = 0;
  const int seeds = 40;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    const SingularTriplets found = randomized_svd(
        dense(matrix),
        {.rank = k + p, .oversampling = 0, .power_iterations = 0, .random = RandomSource(seed)});
    mean +=
        (matrix - found.left.matmul(found.left.t()).matmul(matrix)).norm().item<double>() / seeds;
  }
  BOOST_TEST(mean <= std::sqrt(1 + double(k) / (p - 1)) * tail(s, k));
  BOOST_TEST(mean >= tail(s, k + p));
}

BOOST_AUTO_TEST_CASE(subspace_iteration_finds_both_signs) {
  const int64_t n = 120;
  const at::Tensor top = torch::tensor({5.0, -4.0, 3.0, -2.5}, double_options());
  const DenseOperator a(with_eigenvalues(torch::cat({top, numbers(-0.5, 0.5, n - 4)})));
  const EigenpairsResult found = subspace_iteration(a, {.rank = 4, .power_iterations = 8});
  BOOST_TEST(close(values_of(found.top), top, {1e-10, 0}));
  BOOST_TEST(found.products == a.products());
  BOOST_TEST(found.products == 10 * 14);
  check_pairs(a, found.top);
}

BOOST_AUTO_TEST_CASE(nystrom_keeps_its_bounds) {
  const int64_t n = 200, r = 20;
  const at::Tensor eigenvalues = falling(n);
  const at::Tensor matrix = with_eigenvalues(eigenvalues);
  double mean = 0;
  const int seeds = 30;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    const DenseOperator a(matrix);
    const EigenpairsResult found = nystrom(a, {.rank = r, .random = RandomSource(seed)});
    BOOST_TEST(found.products == a.products());
    BOOST_TEST(found.products == 2 * r);
    check_pairs(a, found.top);
    const at::Tensor rest =
        matrix - (found.top.vectors * values_of(found.top)).matmul(found.top.vectors.t());
    BOOST_TEST(std::get<0>(torch::linalg_eigh(rest)).min().item<double>() > -1e-12);
    mean += rest.trace().item<double>() / seeds;
  }
  double bound = std::numeric_limits<double>::infinity();
  for (int64_t k = 0; k < r - 1; ++k) {
    const double left = eigenvalues.narrow(0, k, n - k).sum().item<double>();
    bound = std::min(bound, (1 + double(k) / double(r - k - 1)) * left);
  }
  BOOST_TEST(mean <= bound);
  BOOST_TEST(mean >= eigenvalues.narrow(0, r, n - r).sum().item<double>());
}

BOOST_AUTO_TEST_CASE(operators_of_low_rank_are_reproduced) {
  const int64_t n = 60;
  const at::Tensor spectrum =
      torch::cat({numbers(1, 4, 7), torch::zeros({n - 7}, double_options())});
  for (const double scale : {1.0, 1e-9, 1e9}) {
    const at::Tensor matrix = scale * with_eigenvalues(spectrum);
    const DenseOperator a(matrix);
    const EigenpairsResult found = nystrom(a, {.rank = 15});
    check_operator_laws(*low_rank_operator(found.top, Space::flat(n)), matrix, {.tolerance = 1e-6});
    BOOST_TEST(
        close(low_rank_operator(found.top, Space::flat(n))->apply(torch::eye(n, double_options())),
              matrix, {1e-10, 0}));
  }
  const DenseOperator zero(torch::zeros({n, n}, double_options()));
  const EigenpairsResult none = nystrom(zero, {.rank = 5});
  BOOST_TEST(values_of(none.top).abs().sum().item<double>() == 0);
  const DenseOperator one(torch::full({1, 1}, 3.0, double_options()));
  BOOST_TEST(std::abs(nystrom(one, {}).top.values.at(0) - 3) < 1e-12);
  BOOST_TEST(std::abs(subspace_iteration(one, {}).top.values.at(0) - 3) < 1e-12);
}

BOOST_AUTO_TEST_CASE(a_diagonal_can_be_matched) {
  const int64_t n = 40;
  const at::Tensor matrix = with_eigenvalues(falling(n));
  const EigenpairsResult found =
      nystrom(dense(matrix, Symmetry::kPositiveSemidefinite), {.rank = 5});
  const at::Tensor d = matrix.diagonal().contiguous();
  const OperatorPtr a = low_rank_operator(found.top, d, Space::flat(n));
  BOOST_TEST(close(*a->diagonal(), d, {1e-12, 0}));
  const at::Tensor approximation = materialize(*a);
  const at::Tensor plain = materialize(*low_rank_operator(found.top, Space::flat(n)));
  BOOST_TEST((approximation - matrix).norm().item<double>() <
             (plain - matrix).norm().item<double>());
  BOOST_CHECK_THROW(low_rank_operator(found.top, d.narrow(0, 0, 3), Space::flat(n)), ShapeError);
}

BOOST_AUTO_TEST_CASE(the_preconditioner_brings_the_condition_down) {
  const int64_t n = 200;
  const double shift = 1e-4;
  const at::Tensor eigenvalues = (-numbers(0, double(n - 1) / 4, n)).exp();
  const at::Tensor matrix = with_eigenvalues(eigenvalues);
  const double dimension = (eigenvalues / (eigenvalues + shift)).sum().item<double>();
  const auto rank = static_cast<int64_t>(2 * std::ceil(1.5 * dimension) + 1);
  BOOST_REQUIRE(rank < n);
  const at::Tensor shifted = matrix + shift * torch::eye(n, double_options());
  double mean = 0;
  const int seeds = 10;
  for (uint64_t seed = 0; seed < seeds; ++seed) {
    const EigenpairsResult found =
        nystrom(dense(matrix, Symmetry::kPositiveSemidefinite),
                {.rank = rank, .residuals = false, .random = RandomSource(seed)});
    BOOST_TEST(found.top.residuals.empty());
    const OperatorPtr p = nystrom_preconditioner(found.top, shift, Space::flat(n));
    BOOST_TEST((p->spec().symmetry == Symmetry::kPositiveDefinite));
    const at::Tensor root = torch::linalg_cholesky(materialize(*p));
    const at::Tensor values =
        std::get<0>(torch::linalg_eigh(root.t().matmul(shifted).matmul(root)));
    mean += (values.max() / values.min()).item<double>() / seeds;
  }
  BOOST_TEST(mean <= 28);
  BOOST_TEST(1 / shift > 300 * mean);  // what it was without
}

BOOST_AUTO_TEST_CASE(single_precision_and_reproducible) {
  const int64_t n = 100;
  const at::Tensor eigenvalues = falling(n);
  const DenseOperator a(with_eigenvalues(eigenvalues).to(at::kFloat));
  const EigenpairsResult found = nystrom(a, {.rank = 30});
  BOOST_TEST((found.top.vectors.scalar_type() == at::kFloat));
  BOOST_TEST(close(values_of(found.top).narrow(0, 0, 5), eigenvalues.narrow(0, 0, 5), {2e-2, 0}));
  check_pairs(a, found.top, 1e-5);
  const EigenpairsResult iterated = subspace_iteration(a, {.rank = 5});
  BOOST_TEST(close(values_of(iterated.top), eigenvalues.narrow(0, 0, 5), {1e-4, 0}));
  const EigenpairsResult again = nystrom(a, {.rank = 30, .columns_at_once = 30});
  BOOST_TEST(close(again.top.vectors, found.top.vectors, {1e-2, 0}));
  BOOST_TEST(torch::equal(nystrom(a, {.rank = 30}).top.vectors, found.top.vectors));
}

BOOST_AUTO_TEST_CASE(bad_arguments_and_operators_are_refused) {
  const OperatorPtr a = dense(laplacian(10), Symmetry::kPositiveDefinite);
  BOOST_CHECK_THROW(nystrom(a, {.rank = 0}), OptionError);
  BOOST_CHECK_THROW(subspace_iteration(a, {.oversampling = -1}), OptionError);
  BOOST_CHECK_THROW(randomized_svd(a, {.power_iterations = -1}), OptionError);
  BOOST_CHECK_THROW(randomized_svd(OperatorPtr(), {}), OptionError);
  BOOST_CHECK_THROW(nystrom(dense(normal_matrix(4, 4)), {}), NotSupportedError);
  BOOST_CHECK_THROW(subspace_iteration(dense(normal_matrix(4, 4)), {}), NotSupportedError);
  BOOST_CHECK_THROW(nystrom(dense(-laplacian(10), Symmetry::kSymmetric), {}), NumericalError);
  BOOST_CHECK_THROW(nystrom(dense(laplacian(10) * NAN, Symmetry::kSymmetric), {}), NumericalError);
  BOOST_CHECK_THROW(nystrom_preconditioner({}, 1, Space::flat(10)), OptionError);
  const OperatorPtr empty = dense(torch::zeros({0, 0}, double_options()), Symmetry::kSymmetric);
  BOOST_CHECK_THROW(nystrom(empty), ShapeError);
  BOOST_CHECK_THROW(subspace_iteration(empty), ShapeError);
  for (const auto& [rows, columns] : {std::pair(0, 0), {0, 3}, {3, 0}}) {
    BOOST_CHECK_THROW(randomized_svd(dense(torch::zeros({rows, columns}, double_options()))),
                      ShapeError);
  }
  const Eigenpairs pairs = nystrom(a, {.rank = 3}).top;
  BOOST_CHECK_THROW(nystrom_preconditioner(pairs, -10, Space::flat(10)), OptionError);
  struct Cancelled {};
  BOOST_CHECK_THROW(nystrom(a, {.observer = [](const Progress&) { throw Cancelled(); }}),
                    Cancelled);
}

BOOST_AUTO_TEST_SUITE_END()
