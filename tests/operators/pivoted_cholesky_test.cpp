#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <curvature/core/random.hpp>

#include "core/epsilon.hpp"
#include "operators/pivoted_cholesky.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(pivoted_cholesky_test)

using namespace curvature;
using namespace curvature::testing;
namespace data = boost::unit_test::data;

namespace {

/// X X^T for a random X `[n, rank]`.
at::Tensor matrix_of_rank(int64_t n, int64_t rank, at::ScalarType dtype) {
  const at::Tensor x = RandomSource(3).normal(0, n, rank).to(test_device());
  return x.matmul(x.t()).to(dtype);
}

at::Tensor factor_of(const at::Tensor& matrix, int64_t max_columns, double negligible) {
  return curvature::detail::pivoted_cholesky(
      matrix, {max_columns, negligible, [](int64_t, double) { return true; }});
}

const auto kDtypes = data::make({at::kFloat, at::kDouble});

}  // namespace

BOOST_DATA_TEST_CASE(the_factor_multiplies_to_the_matrix, kDtypes, dtype) {
  for (const int64_t rank : {1, 3, 64, 65, 130, 200}) {
    BOOST_TEST_CONTEXT("rank " << rank) {
      const at::Tensor matrix = matrix_of_rank(200, rank, dtype);
      const at::Tensor rows = factor_of(matrix, rank, curvature::detail::epsilon(dtype));
      BOOST_TEST(rows.sizes() == at::IntArrayRef({rank, 200}));
      BOOST_TEST(rows.device() == matrix.device());
      BOOST_TEST(close(rows.t().matmul(rows), matrix, {200 * curvature::detail::epsilon(dtype)}));
    }
  }
}

BOOST_DATA_TEST_CASE(it_ends_where_nothing_is_left, kDtypes, dtype) {
  const double negligible = 10 * curvature::detail::epsilon(dtype);
  BOOST_TEST(factor_of(matrix_of_rank(200, 70, dtype), 200, negligible).size(0) == 70);
  const at::Tensor zero = at::zeros_like(matrix_of_rank(9, 1, dtype));
  BOOST_TEST(factor_of(zero, 9, negligible).size(0) == 0);
  BOOST_TEST(factor_of(zero.narrow(0, 0, 0).narrow(1, 0, 0), 0, negligible).size(0) == 0);
}

BOOST_AUTO_TEST_CASE(the_largest_of_what_is_left_comes_first) {
  const at::Tensor diagonal = RandomSource(1).normal(0, 150, 1).select(1, 0).exp();
  const at::Tensor rows = factor_of(diagonal.diag(), 150, 0);
  const at::Tensor squares = rows.square().sum(1);
  BOOST_TEST(close(squares, std::get<0>(diagonal.sort(0, /*descending=*/true))));
}

BOOST_AUTO_TEST_CASE(what_is_negligible_is_left_out_and_what_is_left_is_told) {
  const at::Tensor scale = at::logspace(0, -12, 300, 10.0, at::kDouble);
  const at::Tensor q = std::get<0>(at::linalg_qr(RandomSource(2).normal(0, 300, 300)));
  const at::Tensor matrix = (q * scale).matmul(q.t());
  const auto part_left = [&](const at::Tensor& rows) {
    return ((rows.t().matmul(rows) - matrix).norm() / matrix.norm()).item<double>();
  };
  for (const double negligible : {1e-2, 1e-5, 1e-8}) {
    const at::Tensor rows = factor_of(matrix, 300, negligible);
    BOOST_TEST(part_left(rows) <= 3 * negligible);
    BOOST_TEST(part_left(rows.narrow(0, 0, rows.size(0) / 2)) > negligible);
  }
  int64_t num_asked = 0;
  const at::Tensor none = curvature::detail::pivoted_cholesky(
      matrix, {300, 1e-8, [&](int64_t columns, double left) {
                 const double exact = part_left(factor_of(matrix, columns, 0));
                 BOOST_TEST(left >= exact / 3);
                 BOOST_TEST(left <= exact * 3);
                 ++num_asked;
                 return columns < 50;
               }});
  BOOST_TEST(!none.defined());
  BOOST_TEST(num_asked >= 2);
}

BOOST_AUTO_TEST_SUITE_END()
