#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include "layerwise/outer_products.hpp"
#include "layerwise/reference.hpp"

using namespace curvature;
using namespace curvature::testing;

BOOST_AUTO_TEST_SUITE(outer_products_test)

BOOST_AUTO_TEST_CASE(are_summed_in_any_layout) {
  for (const int64_t examples : {1, 3}) {
    for (const int64_t positions : {1, 7, 127, 128, 200}) {
      for (const int64_t rows : {1, 5}) {
        const at::Tensor g = numbers({examples, positions, rows}, 1);
        const at::Tensor channels_first = g.transpose(1, 2).contiguous().transpose(1, 2);
        const at::Tensor wider = numbers({examples, rows + 2, positions}, 2);
        const at::Tensor channels_of_group = wider.narrow(1, 1, rows).transpose(1, 2);
        for (const at::Tensor& layout : {g, channels_first, channels_of_group}) {
          at::Tensor expected = numbers({rows, rows}, 3), sum = expected.clone();
          for (int64_t n = 0; n < examples; ++n) {
            for (int64_t s = 0; s < positions; ++s) {
              expected += at::outer(layout[n][s], layout[n][s]);
            }
          }
          BOOST_TEST_CONTEXT(examples << " x " << positions << " x " << rows) {
            curvature::detail::add_outer_products(layout, sum);
            BOOST_TEST(close(sum, expected, {1e-12, 1e-12}));
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
