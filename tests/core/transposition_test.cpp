#include "../../src/core/transposition.hpp"

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <array>

#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(transposition_test)

using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(columns_become_contiguous_rows_in_every_size_layout_and_dtype) {
  const at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(1);
  const std::vector<std::array<int64_t, 2>> sizes = {
      {0, 3},  {3, 0},     {1, 1},     {5, 1},    {255, 2}, {256, 7}, {1000, 8},
      {66, 9}, {70001, 6}, {300, 100}, {9, 3001}, {1, 7},   {131, 65}};
  for (const auto& [n, num_columns] : sizes) {
    const at::Tensor drawn = at::randn({n, num_columns}, generator).to(test_device());
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16, at::kLong}) {
      const at::Tensor x = drawn.to(dtype);
      for (const at::Tensor& columns :
           {x, x.t().contiguous().t(), at::cat({x, x}, 1).narrow(1, num_columns, num_columns)}) {
        const at::Tensor rows = curvature::detail::columns_as_rows(columns);
        BOOST_TEST(rows.is_contiguous());
        if (num_columns == 1) BOOST_TEST(rows.stride(0) == n);  // a copy takes others for columns
        BOOST_TEST(rows.equal(x.t()));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(threads_share_the_blocks) {
  const at::Tensor x = at::randn({9, 70001}, at::make_generator<at::CPUGeneratorImpl>(1));
  const int before = at::get_num_threads();
  at::set_num_threads(3);
  const at::Tensor rows = curvature::detail::columns_as_rows(x);
  at::set_num_threads(before);
  BOOST_TEST(rows.equal(x.t()));
}

BOOST_AUTO_TEST_SUITE_END()
