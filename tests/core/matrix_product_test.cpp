#include "../../src/core/matrix_product.hpp"

#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <array>
#include <limits>

#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(matrix_product_test)

using namespace curvature;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(is_the_product_in_every_size_layout_and_dtype) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const double tolerance = dtype == at::kFloat ? 1e-5 : 1e-13;
    for (const auto& [m, k, n] : std::vector<std::array<int64_t, 3>>{
             {0, 3, 2}, {1, 1, 1}, {3, 0, 2}, {95, 200, 96}, {96, 96, 96}, {150, 300, 97}}) {
      const at::Tensor a = at::randn({m, k}, generator).to(test_device()),
                       b = at::randn({k, n}, generator).to(test_device());
      const at::Tensor exact = a.to(at::kDouble).mm(b.to(at::kDouble));
      const at::Tensor wide = at::cat({b, b}, 1).narrow(1, n, n);
      for (const at::Tensor& left : {a, a.t().contiguous().t()}) {
        for (const at::Tensor& right : {b, b.t().contiguous().t(), wide}) {
          const at::Tensor product =
              curvature::detail::matrix_product(left.to(dtype), right.to(dtype));
          const at::Tensor padded =
              curvature::detail::padded_product(left.to(dtype), right.to(dtype));
          BOOST_TEST(close(padded.to(at::kDouble), exact, {tolerance, tolerance}));
          BOOST_TEST(product.scalar_type() == dtype);
          BOOST_TEST(close(product.to(at::kDouble), exact, {tolerance, tolerance}));
          at::Tensor sum = at::ones({n, m}, exact.options().dtype(dtype)).t();
          curvature::detail::add_matrix_product(sum, left.to(dtype), right.to(dtype));
          BOOST_TEST(close(sum.to(at::kDouble), 1 + exact, {tolerance, tolerance}));
          sum.fill_(std::numeric_limits<double>::quiet_NaN());
          curvature::detail::add_matrix_product(sum, left.to(dtype), right.to(dtype), 0);
          BOOST_TEST(close(sum.to(at::kDouble), exact, {tolerance, tolerance}));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(expanded_and_overlapping_operands_are_read_right) {
  const at::Tensor row = at::arange(200, at::kFloat).div(200).to(test_device());
  const at::Tensor windows = row.unfold(0, 100, 1);                  // [101, 100], overlapping
  const at::Tensor same = row.narrow(0, 0, 100).expand({100, 100});  // one row, again and again
  const at::Tensor column = row.narrow(0, 0, 101).unsqueeze(1).expand({101, 100});
  for (const at::Tensor& a : {windows, same, column}) {
    for (const at::Tensor& b : {windows.t(), same, same.t(), column.t()}) {
      BOOST_TEST(close(curvature::detail::matrix_product(a, b), a.contiguous().mm(b.contiguous()),
                       {1e-5, 1e-5}));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
