#include "../../src/core/finite.hpp"

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <limits>

#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(finite_test)

using namespace curvature::testing;
using curvature::detail::is_finite;

BOOST_AUTO_TEST_CASE(one_entry_that_is_not_finite_shows_in_every_dtype) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const at::ScalarType dtype : {at::kHalf, at::kBFloat16, at::kFloat, at::kDouble}) {
    at::Tensor x = at::ones({3, 1000}, at::TensorOptions().dtype(dtype).device(test_device()));
    BOOST_TEST(is_finite(x));
    for (const double bad : {kInfinity, -kInfinity, std::numeric_limits<double>::quiet_NaN()}) {
      x[1][17] = bad;
      BOOST_TEST(!is_finite(x));
      x[2][18] = -bad;  // of which the sum is NaN
      BOOST_TEST(!is_finite(x));
      x.fill_(1);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_sum_that_overflows_says_nothing) {
  for (const double large : {3e38, -3e38}) {
    BOOST_TEST(is_finite(at::full({1000}, large, at::device(test_device()).dtype(at::kFloat))));
  }
  BOOST_TEST(is_finite(at::full({1000}, 6e4, at::device(test_device()).dtype(at::kHalf))));
}

BOOST_AUTO_TEST_CASE(nothing_whole_numbers_and_parameters_are_finite) {
  BOOST_TEST(is_finite(at::empty({0, 3}, at::device(test_device()))));
  BOOST_TEST(is_finite(at::ones({3}, at::device(test_device()).dtype(at::kLong))));
  BOOST_TEST(is_finite(at::ones({3}, at::device(test_device()).dtype(at::kBool))));
  BOOST_TEST(is_finite(at::ones({3}, at::device(test_device())).requires_grad_()));
}

BOOST_AUTO_TEST_SUITE_END()
