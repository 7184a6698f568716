#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include "layerwise/gram.hpp"
#include "layerwise/reference.hpp"
#include "layerwise/squared_gradients.hpp"

BOOST_AUTO_TEST_SUITE(gram_test)

using namespace curvature;
using namespace curvature::testing;

BOOST_DATA_TEST_CASE(the_lower_triangle_is_the_one_of_the_product,
                     boost::unit_test::data::make({1, 2, 127, 128, 129, 300, 1000}), n) {
  const at::Tensor x = numbers({5, n}, 1);
  at::Tensor sum = at::zeros({n, n}, x.options());
  curvature::detail::add_gram(sum, x);
  curvature::detail::add_gram(sum, 2 * x);
  curvature::detail::mirror_lower(sum, 0.5);
  BOOST_TEST(close(sum, 2.5 * x.t().matmul(x)));
}

BOOST_DATA_TEST_CASE(in_float32_rows_of_the_sum_may_begin_anywhere,
                     boost::unit_test::data::make({383, 384, 385, 500, 1025}), n) {
  for (const int64_t rows : {5, 100}) {
    const at::Tensor x = numbers({rows, n}, 1).to(at::kFloat);
    at::Tensor sum = at::ones({n, n}, x.options());
    curvature::detail::add_gram(sum, x, 0.5);
    curvature::detail::mirror_lower(sum);
    const at::Tensor exact = x.to(at::kDouble).t().matmul(x.to(at::kDouble)) + 0.5;
    BOOST_TEST(close(sum.to(at::kDouble), exact, {1e-5, 1e-5}));
  }
}

BOOST_AUTO_TEST_CASE(rows_may_lie_in_any_layout) {
  for (const int64_t examples : {1, 3}) {
    for (const int64_t positions : {1, 7, 127, 128, 200}) {
      for (const int64_t rows : {1, 5}) {
        const at::Tensor g = numbers({examples, positions, rows}, 1);
        const at::Tensor channels_first = g.transpose(1, 2).contiguous().transpose(1, 2);
        const at::Tensor wider = numbers({examples, rows + 2, positions}, 2);
        const at::Tensor channels_of_group = wider.narrow(1, 1, rows).transpose(1, 2);
        for (const at::Tensor& layout : {g, channels_first, channels_of_group}) {
          at::Tensor expected = at::zeros({rows, rows}, g.options()), sum = expected.clone();
          for (int64_t n = 0; n < examples; ++n) {
            for (int64_t s = 0; s < positions; ++s) {
              expected += at::outer(layout[n][s], layout[n][s]);
            }
          }
          BOOST_TEST_CONTEXT(examples << " x " << positions << " x " << rows) {
            curvature::detail::add_gram(sum, layout);
            curvature::detail::mirror_lower(sum);
            BOOST_TEST(close(sum, expected, {1e-12, 1e-12}));
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(squared_gradients_are_the_same_in_every_order_of_work) {
  // Positions below, between and above the sizes, so that each rotation comes first and last; the
  // last ones are added to in two strips of rows, and in one.
  for (const auto& [s, m, n] : std::vector<std::array<int64_t, 3>>{
           {1, 3, 4}, {2, 3, 4}, {4, 3, 6}, {4, 6, 3}, {9, 3, 4}, {3, 300, 1001}, {3, 150, 110}}) {
    const at::Tensor g = numbers({5, s, m}, 3), a = numbers({5, s, n}, 4);
    const at::Tensor basis_b = std::get<0>(at::linalg_qr(numbers({m, m}, 5)));
    const at::Tensor basis_a = std::get<0>(at::linalg_qr(numbers({n, n}, 6)));
    at::Tensor sum = at::ones({m, n}, g.options());
    curvature::detail::add_squared_gradients(g, a, basis_b, basis_a, sum);
    const at::Tensor gradients = at::einsum("bsi,bsj->bij", {g, a});
    const at::Tensor rotated = at::einsum("bij,ik,jl->bkl", {gradients, basis_b, basis_a});
    BOOST_TEST(close(sum, 1 + rotated.square().sum(0)));

    at::Tensor unrotated = at::ones({m, n}, g.options());
    curvature::detail::add_squared_gradients(g, a, {}, {}, unrotated);
    BOOST_TEST(close(unrotated, 1 + gradients.square().sum(0)));
  }
}

BOOST_AUTO_TEST_CASE(squared_gradients_are_the_same_for_many_examples) {
  // So many that they come in several pieces, which are not of one size.
  const int64_t s = 40, m = 130, n = 150;
  const at::Tensor g = numbers({1501, s, m}, 3), a = numbers({1501, s, n}, 4);
  at::Tensor sum = at::zeros({m, n}, g.options()), expected = sum.clone();
  curvature::detail::add_squared_gradients(g, a, {}, {}, sum);
  for (int64_t i = 0; i < g.size(0); ++i) expected += g[i].t().mm(a[i]).square();
  BOOST_TEST(close(sum, expected));
}

BOOST_AUTO_TEST_SUITE_END()
