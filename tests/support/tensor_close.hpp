#pragma once

#include <ATen/core/Tensor.h>
#include <boost/test/tools/assertion_result.hpp>

namespace curvature::testing {

struct Tolerance {
  double relative = 1e-10;
  double absolute = 1e-14;
};

/// Whether |actual - expected| <= absolute + relative |expected| in the Euclidean norm, shapes and
/// dtypes being equal and everything finite; for `BOOST_TEST(close(a, b))`. On failure says where
/// they differ most.
boost::test_tools::assertion_result close(const at::Tensor& actual, const at::Tensor& expected,
                                          Tolerance tolerance = {});

/// The device tests run on: CUDA where there is one.
at::Device test_device();

}  // namespace curvature::testing
