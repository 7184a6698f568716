#include "../../src/core/qr.hpp"

#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include "support/tensor_close.hpp"

namespace curvature::testing {

BOOST_AUTO_TEST_SUITE(qr_test)

namespace {

namespace data = boost::unit_test::data;
using detail::QrFactors;

/// Sizes on both sides of where blocks begin, and such that the last block is full, short or one.
const auto kSizes = data::make({1, 7, 192, 193, 480, 481, 577, 650, 1153});

at::Tensor gram(int64_t n, int64_t rank, at::ScalarType dtype) {
  torch::manual_seed(0);
  const at::Tensor x = torch::randn({n, rank}, torch::kDouble);
  return x.matmul(x.t()).div(static_cast<double>(rank)).to(dtype);
}

double relative_error(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(torch::kDouble) - b.to(torch::kDouble)).norm().item<double>() /
         b.to(torch::kDouble).norm().item<double>();
}

/// That Q is orthogonal, R triangular and Q R the matrix, to rounding.
void check_factors(const QrFactors& factors, const at::Tensor& matrix) {
  const at::Tensor q = factors.orthogonal.to(torch::kDouble);
  const at::Tensor identity = torch::eye(matrix.size(0), torch::kDouble);
  BOOST_TEST((q.t().matmul(q) - identity).abs().max().item<double>() < 1e-5);
  BOOST_TEST(torch::equal(factors.triangle, factors.triangle.triu()));
  const at::Tensor error = q.matmul(factors.triangle.to(torch::kDouble)) - matrix;
  BOOST_TEST(error.norm().item<double>() <= 3e-6 * matrix.norm().item<double>());
}

}  // namespace

BOOST_DATA_TEST_CASE(the_factors_make_the_matrix, kSizes, n) {
  check_factors(detail::qr(gram(n, 2 * n, torch::kFloat)), gram(n, 2 * n, torch::kFloat));
}

BOOST_DATA_TEST_CASE(singular_matrices_have_orthogonal_factors, data::make({480, 577}), n) {
  check_factors(detail::qr(gram(n, n / 3, torch::kFloat)), gram(n, n / 3, torch::kFloat));
  const at::Tensor diagonal = torch::arange(n, torch::kFloat).diag();
  check_factors(detail::qr(diagonal), diagonal);
  check_factors(detail::qr(torch::zeros({n, n})), torch::zeros({n, n}));
}

BOOST_AUTO_TEST_CASE(tall_matrices_have_a_complete_basis) {
  for (const int64_t columns : {1, 90, 96, 100, 250, 576, 700}) {
    const at::Tensor matrix = gram(700, 1400, torch::kFloat).narrow(1, 0, columns);
    check_factors(detail::qr(matrix), matrix);
    check_factors(detail::qr(torch::zeros_like(matrix)), torch::zeros_like(matrix));
  }
  const at::Tensor large = gram(1200, 2400, torch::kFloat).narrow(1, 0, 450);
  check_factors(detail::qr(large), large);
}

BOOST_DATA_TEST_CASE(blocks_find_the_factors_of_float64, data::make({480, 577, 1200}), n) {
  // Unique up to the signs of the columns, if the matrix is far from singular.
  const at::Tensor matrix = gram(n, 8 * n, torch::kDouble);
  const auto [q, r] = torch::linalg_qr(matrix);
  const QrFactors blocked = detail::qr(matrix.to(torch::kFloat));
  const at::Tensor signs = r.diagonal().sign() * blocked.triangle.diagonal().sign();
  BOOST_TEST(relative_error(blocked.orthogonal * signs, q) < 1e-4);
  BOOST_TEST(relative_error(blocked.triangle * signs.unsqueeze(1), r) < 1e-5);
}

BOOST_DATA_TEST_CASE(a_basis_grows_by_what_is_beyond_its_span,
                     data::make({torch::kFloat, torch::kDouble}), dtype) {
  torch::manual_seed(1);
  const int64_t n = 300;
  const double rounding = dtype == torch::kFloat ? 1e-5 : 1e-13;
  const at::Tensor vectors = torch::randn({250, n}, dtype);
  detail::GrowingBasis basis(n, vectors.options());
  BOOST_TEST(torch::equal(basis.complete(), torch::eye(n, dtype)));
  for (const int64_t count : {1, 100, 30, 119}) {
    const at::Tensor added = vectors.narrow(0, basis.size(), count);
    const int64_t before = basis.size();
    const at::Tensor kept = basis.complete().narrow(1, 0, before);
    basis.add(basis.beyond(added.clone()));
    BOOST_TEST(basis.size() == before + count);
    const at::Tensor q = basis.complete();
    BOOST_TEST(relative_error(q.t().matmul(q), torch::eye(n, dtype)) < rounding);
    if (before > 0) BOOST_TEST(relative_error(q.narrow(1, 0, before), kept) < rounding);
    const at::Tensor beyond = basis.beyond(added.clone());
    BOOST_TEST(beyond.norm().item<double>() < rounding * added.norm().item<double>());
  }
  const at::Tensor other = torch::randn({3, n}, dtype);
  const at::Tensor coordinates = other.matmul(basis.complete());
  at::Tensor rows = other.clone();
  const at::Tensor beyond = basis.beyond(rows);
  BOOST_TEST(relative_error(rows, coordinates) < rounding);
  BOOST_TEST(torch::equal(beyond, rows.narrow(1, 250, n - 250)));
}

BOOST_DATA_TEST_CASE(the_symmetric_product_is_r_q, kSizes, n) {
  for (const auto dtype : {torch::kFloat, torch::kDouble}) {
    const QrFactors factors = detail::qr(gram(n, 2 * n, dtype));
    const at::Tensor expected = factors.triangle.matmul(factors.orthogonal);
    const at::Tensor lower = detail::symmetric_product(factors).tril();
    BOOST_TEST(relative_error(lower, expected.tril()) < (dtype == torch::kFloat ? 1e-5 : 1e-13));
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace curvature::testing
