#include "layerwise/autocorrelation.hpp"

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include "layerwise/reference.hpp"

BOOST_AUTO_TEST_SUITE(autocorrelation_test)

using namespace curvature;
using namespace curvature::testing;
using curvature::detail::autocorrelation;
using curvature::detail::autocorrelation_by_convolution;
using curvature::detail::autocorrelation_by_fourier;
using curvature::detail::Convolution;

namespace {

/// The definition, by a shift of the image for each distance; the first axis from zero on.
at::Tensor by_definition(const at::Tensor& x, const Convolution& convolution) {
  const size_t axes = convolution.axes();
  Shape reach, counts;
  int64_t number = 1;
  for (size_t i = 0; i < axes; ++i) {
    reach.push_back(convolution.reach(i));
    counts.push_back(2 * convolution.kernel[i] - 1);
    number *= counts.back();
  }
  const at::Tensor padded = curvature::detail::pad(x, reach, reach);
  TensorList all;
  for (int64_t index = 0; index < number; ++index) {
    at::Tensor shifted = padded;
    int64_t rest = index;
    for (size_t i = axes; i-- > 0;) {
      const auto axis = static_cast<int64_t>(i) + 2;
      shifted = shifted.narrow(axis, rest % counts[i] * convolution.dilation[i], x.size(axis));
      rest /= counts[i];
    }
    all.push_back(x.transpose(0, 1).flatten(1).mm(shifted.transpose(0, 1).flatten(1).t()));
  }
  counts.insert(counts.begin(), {x.size(1), x.size(1)});
  const at::Tensor both_signs = at::stack(all, -1).view(counts);
  return both_signs.narrow(2, convolution.kernel[0] - 1, convolution.kernel[0]);
}

struct Case {
  Shape shape, kernel, dilation;
};

std::vector<Case> cases() {
  return {{{3, 4, 9}, {3}, {1}},
          {{2, 3, 8}, {4}, {2}},
          {{1, 5, 1}, {3}, {1}},
          {{2, 3, 7, 6}, {3, 3}, {1, 1}},
          {{4, 2, 5, 8}, {1, 4}, {1, 3}},
          {{2, 2, 3, 2}, {5, 5}, {2, 1}},
          {{2, 130, 3, 4}, {2, 3}, {1, 1}},
          {{3, 2, 4, 3, 5}, {3, 2, 3}, {1, 2, 1}}};
}

}  // namespace

BOOST_AUTO_TEST_CASE(both_ways_are_the_sum_over_pixels) {
  for (const Case& c : cases()) {
    const at::Tensor x = numbers(c.shape, 1) + 0.2;
    const Convolution convolution{.kernel = c.kernel, .dilation = c.dilation};
    const at::Tensor expected = by_definition(x, convolution);
    for (const auto way :
         {autocorrelation, autocorrelation_by_convolution, autocorrelation_by_fourier}) {
      BOOST_TEST(close(way(x, convolution), expected, {1e-12, 1e-12}));
    }
  }
}

BOOST_AUTO_TEST_CASE(in_single_precision_the_error_is_that_of_a_few_roundings) {
  const double few = 8 * std::numeric_limits<float>::epsilon();
  // 100 channels and 60 examples: products of frequencies go through oneDNN where there is one.
  for (const Case& c : {Case{{60, 100, 16, 15}, {3, 3}, {1, 1}}, Case{{4, 8, 300}, {5}, {3}}}) {
    const at::Tensor x = (numbers(c.shape, 2) + 0.3).to(at::kFloat);
    const Convolution convolution{.kernel = c.kernel, .dilation = c.dilation};
    const at::Tensor expected = by_definition(x.to(at::kDouble), convolution);
    for (const auto way : {autocorrelation_by_convolution, autocorrelation_by_fourier}) {
      const at::Tensor error = way(x, convolution).to(at::kDouble) - expected;
      BOOST_TEST((error.norm() / expected.norm()).item<double>() < few);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
