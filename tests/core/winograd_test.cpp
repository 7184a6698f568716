#include "../../src/core/winograd.hpp"

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <array>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <thread>
#include <vector>

#include "../../src/core/fast_kernels.hpp"
#include "../../src/core/winograd_tiles.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(winograd_test)

using namespace curvature::testing;
using curvature::detail::ConvolutionShape;
using curvature::detail::FastKernels;
using curvature::detail::TileGrid;

namespace {

at::Tensor draw(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed));
}

at::Tensor convolve(const at::Tensor& x, const at::Tensor& w, const std::optional<at::Tensor>& bias,
                    at::IntArrayRef padding) {
  return at::conv2d(x, w, bias, /*stride=*/1, padding);
}

/// |actual - exact| / |exact|.
double error(const at::Tensor& actual, const at::Tensor& exact) {
  BOOST_TEST_REQUIRE(actual.sizes() == exact.sizes());
  return ((actual.to(at::kDouble) - exact).norm() / exact.norm()).item<double>();
}

/// Tiles of 4 x 4 round more: they add values at points other than 0 and 1.
double rounding(const TileGrid& grid) { return grid.side() == 2 ? 1e-6 : 2e-6; }

struct Sizes {
  int64_t images, channels, out_channels, height, width;
  std::array<int64_t, 2> padding;
};

/// Tiles of both sides: odd and even images, cut tiles, several images, blocks of several images
/// and of some rows of one, all paddings.
const std::vector<Sizes> all_sizes = {
    {1, 1, 1, 1, 1, {1, 1}},     {2, 3, 5, 6, 6, {1, 1}},     {3, 5, 2, 7, 6, {0, 1}},
    {4, 1, 7, 3, 3, {0, 0}},     {200, 64, 96, 2, 2, {1, 1}}, {9, 64, 64, 6, 6, {1, 1}},
    {1, 64, 32, 1, 150, {1, 0}}, {1, 2, 3, 5, 9, {2, 0}},     {2, 3, 5, 4, 4, {1, 1}},
    {2, 6, 4, 8, 5, {2, 2}},     {70, 96, 64, 4, 4, {1, 1}},  {3, 64, 100, 31, 33, {1, 1}},
    {1, 32, 64, 61, 70, {0, 2}}};

}  // namespace

BOOST_AUTO_TEST_CASE(convolutions_and_gradients_are_those_of_float64_to_rounding) {
  std::set<int64_t> sides;
  for (const auto& [images, channels, out_channels, height, width, padding] : all_sizes) {
    const at::Tensor x = draw({images, channels, height, width}, 1);
    const at::Tensor w = draw({out_channels, channels, 3, 3}, 2), bias = draw({out_channels}, 3);
    const at::Tensor exact_x = x.to(at::kDouble).requires_grad_();
    const at::Tensor exact_w = w.to(at::kDouble).requires_grad_();
    const at::Tensor y = convolve(exact_x, exact_w, bias.to(at::kDouble), padding);
    const at::Tensor g = draw(y.sizes(), 4);
    const auto gradients = torch::autograd::grad({y}, {exact_x, exact_w}, {g.to(at::kDouble)});
    BOOST_TEST(y.sizes() ==
               at::IntArrayRef(curvature::detail::winograd_output_shape(x, w, padding)));
    const TileGrid grid(x.sizes(), out_channels, padding);
    const std::array<int64_t, 2> back = {2 - padding[0], 2 - padding[1]};
    const TileGrid back_grid(y.sizes(), channels, back);
    sides.insert(grid.side());
    BOOST_TEST(error(curvature::detail::winograd_convolution({{x, w}}, bias, padding), y.detach()) <
               rounding(grid));
    BOOST_TEST(error(curvature::detail::winograd_input_gradient(g, w, padding), gradients[0]) <
               rounding(back_grid));
    BOOST_TEST(error(curvature::detail::winograd_weight_gradient(g, x, padding), gradients[1]) <
               rounding(grid));
  }
  BOOST_TEST((sides == std::set<int64_t>{2, 4}));
}

BOOST_AUTO_TEST_CASE(terms_are_added_up) {
  const at::Tensor x = draw({3, 4, 6, 5}, 1), w = draw({7, 4, 3, 3}, 2);
  const at::Tensor dx = draw({3, 4, 6, 5}, 3), dw = draw({7, 4, 3, 3}, 4);
  const at::Tensor sum = curvature::detail::winograd_convolution({{x, dw}, {dx, w}}, {}, {1, 0});
  const auto exact = [](const at::Tensor& a, const at::Tensor& b) {
    return convolve(a.to(at::kDouble), b.to(at::kDouble), {}, {1, 0});
  };
  BOOST_TEST(error(sum, exact(x, dw) + exact(dx, w)) < 1e-6);
}

BOOST_AUTO_TEST_CASE(results_agree_with_one_thread_and_several) {
  const at::Tensor w = draw({64, 64, 3, 3}, 2);
  const int before = at::get_num_threads();
  for (const int64_t size : {8, 16}) {  // one block for all threads, and one for each of two
    const at::Tensor x = draw({8, 64, size, size}, 1);
    const auto all_with = [&](int threads) {
      at::set_num_threads(threads);
      return std::vector<at::Tensor>{
          curvature::detail::winograd_convolution({{x, w}}, std::nullopt, {1, 1}),
          curvature::detail::winograd_input_gradient(x, w, {1, 1}),
          curvature::detail::winograd_weight_gradient(x, x, {1, 1})};
    };
    const auto with_one = all_with(1);
    for (const int threads : {2, 3}) {
      const auto with_several = all_with(threads);
      for (size_t i = 0; i < with_one.size(); ++i) {
        BOOST_TEST(close(with_several[i], with_one[i], {1e-6, 0}));
      }
    }
  }
  at::set_num_threads(before);
}

BOOST_AUTO_TEST_CASE(two_threads_share_the_products) {
  static std::mutex mutex;
  static std::set<std::thread::id> threads;  // a callback captures nothing
  const auto note = [](const at::RecordFunction&) -> std::unique_ptr<at::ObserverContext> {
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
    return nullptr;
  };
  const int before = at::get_num_threads();
  for (const int count : {1, 2}) {
    at::set_num_threads(count);
    threads.clear();
    const auto handle = at::addGlobalCallback(at::RecordFunctionCallback(note));
    curvature::detail::winograd_convolution({{draw({8, 64, 8, 8}, 1), draw({64, 64, 3, 3}, 2)}},
                                            std::nullopt, {1, 1});
    at::removeCallback(handle);
    BOOST_TEST(threads.size() == static_cast<size_t>(count));
  }
  at::set_num_threads(before);
}

BOOST_AUTO_TEST_CASE(what_it_is_not_for_is_left_to_libtorch) {
  const at::Tensor x = draw({8, 256, 8, 8}, 1), w = draw({256, 256, 3, 3}, 2);
  const std::array<int64_t, 2> one = {1, 1}, two = {2, 2}, three = {3, 3};
  const ConvolutionShape shape = {one, one, one, false, 1};
  const auto is_for = [](const at::Tensor& a, const at::Tensor& b, const ConvolutionShape& how,
                         const std::optional<at::Tensor>& bias = std::nullopt) {
    return curvature::detail::is_for_winograd(a, b, bias, how);
  };
  BOOST_TEST(is_for(x, w, shape));
  BOOST_TEST(is_for(x, w, shape, at::zeros({256})));
  BOOST_TEST(!is_for(x, w, shape, at::zeros({255})));
  BOOST_TEST(!is_for(x, w, {two, one, one, false, 1}));
  BOOST_TEST(!is_for(x, w, {one, three, one, false, 1}));
  BOOST_TEST(!is_for(x, w, {one, one, two, false, 1}));
  BOOST_TEST(!is_for(x, w, {one, one, one, true, 1}));
  BOOST_TEST(!is_for(x, w.narrow(1, 0, 128).contiguous(), {one, one, one, false, 2}));
  BOOST_TEST(!is_for(x, draw({256, 256, 3, 1}, 2), shape));
  BOOST_TEST(!is_for(x, draw({256, 256, 5, 5}, 2), shape));
  BOOST_TEST(!is_for(x, draw({256, 255, 3, 3}, 2), shape));
  BOOST_TEST(!is_for(x.narrow(1, 0, 32).contiguous(), draw({256, 32, 3, 3}, 2), shape));
  BOOST_TEST(!is_for(x.to(at::kDouble), w.to(at::kDouble), shape));
  BOOST_TEST(!is_for(x.to(at::kBFloat16), w.to(at::kBFloat16), shape));
  BOOST_TEST(!is_for(x.contiguous(at::MemoryFormat::ChannelsLast), w, shape));
  BOOST_TEST(!is_for(x.narrow(0, 0, 0), w, shape));
  BOOST_TEST(!is_for(x.narrow(0, 0, 1), w, shape));          // few tiles
  BOOST_TEST(!is_for(draw({512, 256, 1, 3}, 1), w, shape));  // mostly beyond the image
  BOOST_TEST(!is_for(draw({512, 256, 2, 2}, 1), w, {one, {0, 0}, one, false, 1}));  // no output
}

BOOST_AUTO_TEST_CASE(first_and_second_derivatives_go_through_it_while_a_guard_lives) {
  // Called as scripted and as traced models call a convolution.
  const at::Tensor x = draw({8, 256, 8, 8}, 1), w = draw({256, 256, 3, 3}, 2) / 30;
  const at::Tensor bias = draw({256}, 3);
  const auto derivatives = [&](at::ScalarType dtype, bool traced) {
    std::vector<at::Tensor> at = {x.to(dtype), w.to(dtype), bias.to(dtype)};
    for (at::Tensor& tensor : at) tensor.requires_grad_();
    const at::Tensor y = traced ? at::_convolution(at[0], at[1], at[2], {1, 1}, {1, 1}, {1, 1},
                                                   false, {0, 0}, 1, false, false, false, false)
                                : convolve(at[0], at[1], at[2], {1, 1});
    auto all = torch::autograd::grad({y.tanh().sum()}, at, {}, true, /*create_graph=*/true);
    for (const auto& second : torch::autograd::grad(all, at, {at[0].cos(), at[1], at[2]})) {
      all.push_back(second);
    }
    all.push_back(y);
    for (at::Tensor& tensor : all) tensor = tensor.detach();
    return all;
  };
  const auto exact = derivatives(at::kDouble, false), by_libtorch = derivatives(at::kFloat, false);
  const FastKernels fast;
  for (const bool traced : {false, true}) {
    const auto actual = derivatives(at::kFloat, traced);
    for (size_t i = 0; i < actual.size(); ++i) {
      BOOST_TEST(error(actual[i], exact[i]) < 5e-6);  // of up to three convolutions in turn
      BOOST_TEST(!actual[i].equal(by_libtorch[i]));
    }
  }
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_together_is_refused_as_without_it) {
  const at::Tensor x = draw({8, 256, 8, 8}, 1), w = draw({256, 256, 3, 3}, 2);
  const FastKernels fast;
  BOOST_CHECK_THROW(convolve(x, w, at::zeros({255}), {1, 1}), c10::Error);
  BOOST_CHECK_THROW(convolve(x, draw({256, 255, 3, 3}, 2), {}, {1, 1}), c10::Error);
}

BOOST_AUTO_TEST_SUITE_END()
