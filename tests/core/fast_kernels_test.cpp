#include "../../src/core/fast_kernels.hpp"

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <curvature/core/space.hpp>

#include "../../src/core/matrix_product.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(fast_kernels_test)

using namespace curvature;
using namespace curvature::testing;
using curvature::detail::FastKernels;
using curvature::detail::ZeroProducts;

namespace {

/// Sizes above and below those that go through oneDNN.
at::Tensor draw(at::IntArrayRef shape, at::ScalarType dtype, int64_t seed) {
  const auto generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(seed));
  return (at::randn(shape, generator) / 10).to(dtype);
}

/// Output, gradient and a Hessian product of a network of two linear layers.
TensorList derivatives(at::ScalarType dtype) {
  const at::Tensor x = draw({128, 100}, dtype, 1);
  TensorList weights = {draw({150, 100}, dtype, 2), draw({150}, dtype, 3),
                        draw({110, 150}, dtype, 4)};
  TensorList directions;
  for (at::Tensor& w : weights) {
    directions.push_back(draw(w.sizes(), dtype, 5));
    w.requires_grad_();
  }
  const at::Tensor y = at::linear(at::linear(x, weights[0], weights[1]).tanh(), weights[2]);
  const TensorList gradient =
      torch::autograd::grad({y.square().sum()}, weights, {}, true, /*create_graph=*/true);
  const TensorList product = torch::autograd::grad(gradient, weights, directions);
  TensorList all = {y.detach()};
  for (const auto& list : {gradient, product}) {
    for (const at::Tensor& tensor : list) all.push_back(tensor.detach());
  }
  return all;
}

}  // namespace

BOOST_AUTO_TEST_CASE(derivatives_of_any_order_stay_what_they_are) {
  const TensorList exact = derivatives(at::kDouble);
  const FastKernels fast;
  const TensorList actual = derivatives(at::kFloat);
  for (size_t i = 0; i < exact.size(); ++i) {
    const double error = (actual[i].to(at::kDouble) - exact[i]).norm().item<double>();
    BOOST_TEST(error < 1e-6 * exact[i].norm().item<double>());
  }
  const TensorList same = derivatives(at::kDouble);
  for (size_t i = 0; i < exact.size(); ++i) BOOST_TEST(at::equal(same[i], exact[i]));
}

BOOST_AUTO_TEST_CASE(products_are_those_of_one_dnn_while_a_guard_lives) {
  const at::Tensor a = draw({130, 300}, at::kFloat, 6), b = draw({300, 140}, at::kFloat, 7);
  const at::Tensor before = a.mm(b);
  const auto throws = [&] {
    const FastKernels fast;
    { const FastKernels nested; }
    BOOST_TEST(at::equal(a.mm(b), curvature::detail::matrix_product(a, b)));
    std::thread([&] { BOOST_TEST(at::equal(a.mm(b), before)); }).join();
    throw std::runtime_error("leaves the guard");
  };
  BOOST_CHECK_THROW(throws(), std::runtime_error);
  BOOST_TEST(at::equal(a.mm(b), before));
}

BOOST_AUTO_TEST_CASE(products_with_zeros_are_zeros_that_nobody_computes) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const at::ScalarType dtype : {at::kFloat, at::kDouble}) {
    const at::Tensor zeros = at::zeros({3, 1500}, dtype) * -1;
    const at::Tensor nans = at::full({1500, 2}, nan, dtype);
    at::Tensor almost = zeros.clone();
    almost[2][1499] = 1;
    const auto products = [&](const at::Tensor& a) {
      return TensorList{a.mm(nans), nans.t().mm(a.t()),
                        a.unsqueeze(0).bmm(nans.unsqueeze(0)).squeeze(0)};
    };
    for (const at::Tensor& product : products(zeros))
      BOOST_TEST(product.isnan().all().item<bool>());
    const ZeroProducts guard;
    for (const at::Tensor& product : products(zeros)) {
      BOOST_TEST(product.eq(0).all().item<bool>());
      BOOST_TEST(product.scalar_type() == dtype);
    }
    BOOST_TEST(products(zeros)[0].sizes().equals({3, 2}));
    BOOST_TEST(products(zeros)[1].sizes().equals({2, 3}));
    for (const at::Tensor& product : products(almost))
      BOOST_TEST(product.isnan().all().item<bool>());
    std::thread([&] { BOOST_TEST(zeros.mm(nans).isnan().all().item<bool>()); }).join();
  }
  BOOST_TEST(at::zeros({2, 2}).mm(at::full({2, 2}, nan)).isnan().all().item<bool>());
}

BOOST_AUTO_TEST_CASE(gradients_of_convolutions_at_zero_are_zeros_that_nobody_computes) {
  const at::Tensor x = draw({2, 3, 7, 7}, at::kDouble, 1), w = draw({4, 3, 3, 3}, at::kDouble, 2);
  const auto gradients = [&](const at::Tensor& g, std::array<bool, 3> wanted) {
    return at::convolution_backward(g, x, w, at::IntArrayRef{4}, {2, 2}, {1, 1}, {1, 1}, false,
                                    {0, 0}, 1, wanted);
  };
  const at::Tensor g = draw({2, 4, 4, 4}, at::kDouble, 3), none = at::zeros_like(g);
  const auto expected = gradients(g, {true, true, true});
  const auto expected_zeros = gradients(none, {true, true, true});
  const ZeroProducts guard;
  const auto actual = gradients(g, {true, true, true});
  BOOST_TEST(at::equal(std::get<0>(actual), std::get<0>(expected)));
  BOOST_TEST(at::equal(std::get<1>(actual), std::get<1>(expected)));
  BOOST_TEST(at::equal(std::get<2>(actual), std::get<2>(expected)));
  const auto zeros = gradients(none, {true, true, true});
  BOOST_TEST(at::equal(std::get<0>(zeros), std::get<0>(expected_zeros)));
  BOOST_TEST(at::equal(std::get<1>(zeros), std::get<1>(expected_zeros)));
  BOOST_TEST(at::equal(std::get<2>(zeros), std::get<2>(expected_zeros)));
  const auto weight_alone = gradients(none, {false, true, false});
  BOOST_TEST(!std::get<0>(weight_alone).defined());
  BOOST_TEST(std::get<1>(weight_alone).defined());
  BOOST_TEST(!std::get<2>(weight_alone).defined());
  // Neither input nor weight is looked at.
  const at::Tensor nans = at::full_like(x, std::numeric_limits<double>::quiet_NaN());
  const auto of_nans = at::convolution_backward(none, nans, w, at::IntArrayRef{4}, {2, 2}, {1, 1},
                                                {1, 1}, false, {0, 0}, 1, {true, true, true});
  BOOST_TEST(std::get<1>(of_nans).eq(0).all().item<bool>());
}

BOOST_AUTO_TEST_CASE(scaled_sums_and_other_dtypes_are_left_to_libtorch) {
  const at::Tensor a = draw({100, 100}, at::kFloat, 8), c = draw({100}, at::kFloat, 9);
  const at::Tensor expected = at::addmm(c, a, a, 0.5, 2);
  const FastKernels fast;
  BOOST_TEST(at::equal(at::addmm(c, a, a, 0.5, 2), expected));
  BOOST_CHECK_THROW(a.mm(draw({120, 110}, at::kFloat, 1)), c10::Error);
  BOOST_CHECK_THROW(at::addmm(draw({7}, at::kFloat, 1), a, a), c10::Error);
}

namespace {

/// A function of several tensors differentiated three times: its value, the pullback of a
/// cotangent, and the derivatives (and derivatives of those) of the products of some of the
/// pullback's results with directions.
using TensorFunction = std::function<at::Tensor(const TensorList&)>;

TensorList up_to_third_order(const TensorFunction& function, const TensorList& at, size_t subset) {
  TensorList inputs;
  for (const at::Tensor& tensor : at) inputs.push_back(tensor.clone().requires_grad_());
  const at::Tensor y = function(inputs);
  const at::Tensor cotangent = draw(y.sizes(), at::kDouble, 11).requires_grad_();
  const TensorList pullback = torch::autograd::grad({y}, inputs, {cotangent}, true, true);
  TensorList some, directions;
  for (size_t i = 0; i < pullback.size(); ++i) {
    if ((subset >> i & 1) == 0) continue;
    some.push_back(pullback[i]);
    directions.push_back(draw(at[i].sizes(), at::kDouble, 20 + static_cast<int64_t>(i)));
  }
  inputs.push_back(cotangent);
  const auto derivatives = [&](const TensorList& of, const TensorList& along,
                               const TensorList& inputs_of, bool create_graph) {
    if (of.empty()) return TensorList(inputs_of.size());
    return torch::autograd::grad(of, inputs_of, along, true, create_graph, /*allow_unused=*/true);
  };
  const TensorList graph = derivatives(some, directions, inputs, true);
  TensorList squares;
  for (const at::Tensor& tensor : graph) {
    if (tensor.defined() && tensor.requires_grad()) squares.push_back(tensor.square().sum());
  }
  TensorList result = {y};
  for (const TensorList& list :
       {pullback, derivatives(some, directions, {cotangent}, false),
        derivatives(some, directions, inputs, false), derivatives(squares, {}, inputs, false)}) {
    result.insert(result.end(), list.begin(), list.end());
  }
  return result;
}

/// With this library's kernels the same numbers as `reference` without, for all sets of directions,
/// to 1e-12, of their size where that is `relative` and more than one.
void check_same(const TensorFunction& function, const TensorList& at,
                const TensorFunction& reference, bool relative) {
  for (size_t subset = 1; subset < size_t{1} << at.size(); ++subset) {
    const TensorList expected = up_to_third_order(reference, at, subset);
    const FastKernels fast;
    const TensorList actual = up_to_third_order(function, at, subset);
    BOOST_TEST_REQUIRE(actual.size() == expected.size());
    for (size_t i = 0; i < expected.size(); ++i) {
      const auto or_zero = [&](const at::Tensor& x) {
        return x.defined() ? x.detach() : at::zeros({}, at::kDouble);
      };
      const at::Tensor difference = or_zero(actual[i]) - or_zero(expected[i]);
      const double size = or_zero(expected[i]).norm().item<double>();
      const double unit = relative ? std::max(1.0, size) : 1.0;
      BOOST_TEST(difference.norm().item<double>() < 1e-12 * unit);
    }
  }
}

void check_same(const TensorFunction& function, const TensorList& at, bool relative = false) {
  check_same(function, at, function, relative);
}

/// The node that differentiates the gradient of a function of one tensor.
std::string node_of_gradient(const TensorFunction& function, at::Tensor x) {
  x.requires_grad_();
  const at::Tensor y = function({x});
  const at::Tensor cotangent = at::ones_like(y).requires_grad_();
  return torch::autograd::grad({y}, {x}, {cotangent}, true, true).front().grad_fn()->name();
}

}  // namespace

BOOST_AUTO_TEST_CASE(derivatives_of_convolutions_stay_what_they_are) {
  const at::Tensor bias = draw({6}, at::kDouble, 3);
  const TensorList plain = {draw({2, 4, 7, 6}, at::kDouble, 1), draw({6, 2, 3, 2}, at::kDouble, 2),
                            bias};
  check_same(
      [](const TensorList& x) {
        return at::conv2d(x[0], x[1], x[2], {2, 1}, {1, 2}, {1, 2}, /*groups=*/2);
      },
      plain);
  check_same(
      [](const TensorList& x) {
        return at::conv_transpose2d(x[0], x[1], x[2], {2, 1}, {1, 0}, /*output_padding=*/{0, 0},
                                    /*groups=*/2);
      },
      {plain[0], draw({4, 3, 3, 2}, at::kDouble, 2), bias});
  check_same([](const TensorList& x) { return at::conv1d(x[0], x[1]); },
             {draw({2, 4, 7}, at::kDouble, 1), draw({3, 4, 2}, at::kDouble, 2)});
}

BOOST_AUTO_TEST_CASE(derivatives_of_batch_normalisation_stay_what_they_are) {
  const at::Tensor mean = draw({4}, at::kDouble, 4), variance = draw({4}, at::kDouble, 5).square();
  for (const Shape& shape : {Shape{3, 4, 5, 2}, Shape{6, 4}, Shape{0, 4, 2}}) {
    check_same(
        [&](const TensorList& x) {
          return at::batch_norm(x[0], x[1], x[2], mean, variance, false, 0.1, 1e-5, false);
        },
        {draw(shape, at::kDouble, 1), draw({4}, at::kDouble, 2), draw({4}, at::kDouble, 3)});
  }
}

BOOST_AUTO_TEST_CASE(other_batch_normalisations_are_left_to_libtorch) {
  const at::Tensor input = draw({5, 4, 3}, at::kDouble, 1);
  const at::Tensor mean = at::zeros({4}, at::kDouble), variance = at::ones({4}, at::kDouble);
  check_same(
      [&](const TensorList& x) {
        return at::batch_norm(x[0], {}, {}, mean, variance, false, 0.1, 1e-5, false);
      },
      {input});
  check_same(
      [&](const TensorList& x) {
        return at::batch_norm(x[0], x[1], x[2], {}, {}, true, 0.1, 1e-5, false);
      },
      {input, draw({4}, at::kDouble, 2), draw({4}, at::kDouble, 3)});
}

/// Not LibTorch's own second derivatives, which are wrong.
BOOST_AUTO_TEST_CASE(derivatives_of_normalised_weights_are_those_of_the_formula) {
  for (const int64_t dim : {0, 1}) {
    const TensorFunction by_hand = [dim](const TensorList& x) {
      return x[0] * x[1] / x[0].square().sum(1 - dim, /*keepdim=*/true).sqrt();
    };
    const Shape lengths = dim == 0 ? Shape{4, 1} : Shape{1, 3};
    check_same([dim](const TensorList& x) { return at::_weight_norm(x[0], x[1], dim); },
               {draw({4, 3}, at::kDouble, 1), draw(lengths, at::kDouble, 2)}, by_hand,
               /*relative=*/true);
  }
}

/// LibTorch has no second derivatives of it.
BOOST_AUTO_TEST_CASE(derivatives_of_the_hard_sigmoid_are_those_of_a_cut_line) {
  check_same([](const TensorList& x) { return at::hardsigmoid(x[0] * 4); },
             {draw({7, 5}, at::kDouble, 1)},
             [](const TensorList& x) { return (x[0] * 4 / 6 + 0.5).clamp(0, 1); },
             /*relative=*/true);
}

BOOST_AUTO_TEST_CASE(derivatives_of_gelu_stay_what_they_are) {
  for (const char* approximate : {"none", "tanh"}) {
    const auto gelu = [&](const TensorList& x) { return at::gelu(x[0] * 20, approximate); };
    check_same(gelu, {draw({210, 81}, at::kDouble, 1)}, /*relative=*/true);  // two pieces
    check_same([&](const TensorList& x) { return gelu({x[0].t()}); },
               {draw({3, 4}, at::kDouble, 2)});
    check_same(gelu, {draw({0, 4}, at::kDouble, 2)});
    check_same(gelu, {draw({}, at::kDouble, 3)});
  }
}

BOOST_AUTO_TEST_CASE(derivatives_of_the_softmax_stay_what_they_are) {
  const auto over = [](int64_t dim) {
    return [dim](const TensorList& x) { return (x[0] * 30).softmax(dim); };
  };
  check_same(over(-1), {draw({2, 300, 35}, at::kDouble, 1)}, /*relative=*/true);  // two pieces
  check_same(over(2), {draw({4, 3, 5}, at::kDouble, 2)});
  check_same(over(1), {draw({4, 3, 5}, at::kDouble, 3)});
  check_same(over(-1), {draw({0, 5}, at::kDouble, 4)});
  check_same(over(0), {draw({}, at::kDouble, 5)});
  check_same([&](const TensorList& x) { return over(-1)({x[0].movedim(0, -1)}); },
             {draw({4, 3, 5}, at::kDouble, 6)});
}

// LibTorch's third derivatives hold mean and scale fixed, and are wrong: what is right is written
// out here.
BOOST_AUTO_TEST_CASE(derivatives_of_layer_normalisation_are_those_of_its_definition) {
  const auto check = [](const Shape& shape, size_t normalised, bool has_weight, bool has_bias) {
    const Shape last(shape.end() - static_cast<int64_t>(normalised), shape.end());
    const double epsilon = 1e-3;  // seen by tests: the variances are about 0.01
    TensorList at = {draw(shape, at::kDouble, 1)};
    if (has_weight) at.push_back(draw(last, at::kDouble, 2) * 10);
    if (has_bias) at.push_back(draw(last, at::kDouble, 3));
    const auto optional = [](const TensorList& x, bool exists, size_t i) {
      return exists ? std::optional<at::Tensor>(x[i]) : std::nullopt;
    };
    const auto weight = [=](const TensorList& x) { return optional(x, has_weight, 1); };
    const auto bias = [=](const TensorList& x) { return optional(x, has_bias, x.size() - 1); };
    check_same(
        [=](const TensorList& x) {
          return at::layer_norm(x[0], last, weight(x), bias(x), epsilon);
        },
        at,
        [=](const TensorList& x) {
          const at::Tensor rows = x[0].flatten(-static_cast<int64_t>(normalised));
          const at::Tensor centred = rows - rows.mean(-1, true);
          at::Tensor y = centred * (centred.square().mean(-1, true) + epsilon).rsqrt();
          y = y.reshape(shape);
          if (has_weight) y = y * *weight(x);
          return has_bias ? y + *bias(x) : y;
        },
        /*relative=*/true);
  };
  for (const auto& [has_weight, has_bias] : {std::pair(true, true), std::pair(true, false),
                                             std::pair(false, true), std::pair(false, false)}) {
    check({7, 5}, 1, has_weight, has_bias);
    check({2, 3, 4, 3}, 2, has_weight, has_bias);
    check({600, 40}, 1, has_weight, has_bias);  // two pieces
    check({5}, 1, has_weight, has_bias);
  }
  check({0, 5}, 1, true, true);
}

BOOST_AUTO_TEST_CASE(gradients_are_differentiated_by_this_library_while_a_guard_lives) {
  const std::vector<TensorFunction> functions = {
      [](const TensorList& x) { return at::gelu(x[0]); },
      [](const TensorList& x) { return x[0].softmax(-1); },
      [](const TensorList& x) { return at::layer_norm(x[0], {4}); }};
  const std::vector<std::string> nodes = {"GeluBackwardBackward0", "SoftmaxBackwardDataBackward0",
                                          "NativeLayerNormBackwardBackward0"};
  for (size_t i = 0; i < functions.size(); ++i) {
    for (const at::ScalarType dtype : {at::kFloat, at::kDouble, at::kBFloat16}) {
      const at::Tensor x = draw({3, 4}, dtype, 1);
      BOOST_TEST(node_of_gradient(functions[i], x) == nodes[i]);
      const FastKernels fast;
      const bool is_theirs = node_of_gradient(functions[i], x) == nodes[i];
      BOOST_TEST(is_theirs == (dtype == at::kBFloat16));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
