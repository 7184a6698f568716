#include "../../src/core/inner_product.hpp"

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>

#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(inner_product_test)

using namespace curvature::testing;

namespace {

at::Tensor randn(int64_t n, at::ScalarType dtype) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(n);
  return at::randn({n}, generator).to(test_device(), dtype);
}

}  // namespace

// Sizes on both sides of a vector's, a piece's and a thread's.
BOOST_AUTO_TEST_CASE(sums_of_all_sizes_agree_with_float64) {
  for (const int64_t n : {0, 1, 31, 32, 33, 63, 65, 127, 8191, 8192, 8193, 16384, 70001, 300000}) {
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
      BOOST_TEST_CONTEXT("n = " << n << ", " << dtype) {
        const at::Tensor x = randn(n, dtype), y = randn(n + 1, dtype).narrow(0, 1, n);
        const at::Tensor exact_x = x.to(at::kDouble), exact_y = y.to(at::kDouble);
        const double scale = exact_x.norm().item<double>() * exact_y.norm().item<double>();
        const double product = (exact_x * exact_y).sum().item<double>();
        BOOST_TEST(std::abs(curvature::detail::inner(x, y) - product) <= 1e-14 * scale);
        const double length = exact_x.norm().item<double>();
        BOOST_TEST(std::abs(curvature::detail::norm(x) - length) <= 1e-13 * length);
        const double tolerance = dtype == at::kFloat ? 1e-6 : 1e-13;
        BOOST_TEST(std::abs(curvature::detail::quick_norm(x) - length) <= tolerance * length);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(inner_products_of_rows_agree_with_float64) {
  for (const int64_t count : {0, 1, 2, 13}) {
    for (const int64_t n : {0, 1, 63, 8191, 8193, 70001}) {
      const at::Tensor rows = randn(count * n, at::kFloat).to(at::kCPU).view({count, n});
      const at::Tensor y = randn(n, at::kFloat).to(at::kCPU);
      const at::Tensor actual = curvature::detail::inner_rows(rows, y);
      const at::Tensor expected = rows.to(at::kDouble).mv(y.to(at::kDouble));
      BOOST_TEST(actual.sizes() == expected.sizes());
      BOOST_TEST(actual.scalar_type() == at::kDouble);
      // Of vectors of length sqrt(n): no digit of float32 is lost to n.
      const at::Tensor error = (actual - expected).abs();
      BOOST_TEST(error.le(1e-7 * static_cast<double>(n)).all().item<bool>());
    }
  }
}

BOOST_AUTO_TEST_CASE(the_quick_norm_takes_every_shape_and_layout) {
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
    const at::Tensor x = randn(600, dtype).view({20, 30});
    const double tolerance = dtype == at::kBFloat16 ? 1e-2 : 1e-6;
    for (const at::Tensor& y : {x, x.t(), x.narrow(1, 3, 5), x.view({2, 10, 30}), x[3][4]}) {
      const double length = y.to(at::kDouble).norm().item<double>();
      BOOST_TEST(std::abs(curvature::detail::quick_norm(y) - length) <= tolerance * length);
    }
  }
}

BOOST_AUTO_TEST_CASE(no_entry_that_is_not_finite_is_lost) {
  for (const int64_t n : {5, 64, 100, 16384, 20000}) {
    for (const int64_t place : {int64_t{0}, n / 2, n - 1}) {
      at::Tensor x = randn(n, at::kFloat);
      x[place] = std::numeric_limits<double>::quiet_NaN();
      BOOST_TEST(std::isnan(curvature::detail::quick_norm(x)));
      for (const double large : {std::numeric_limits<double>::infinity(), 1e30}) {
        x[place] = -large;  // of which the square is infinite in float32
        BOOST_TEST(std::isinf(curvature::detail::quick_norm(x)));
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
