#include "../../src/core/one_dnn_products.hpp"

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <stdexcept>
#include <thread>

#include <curvature/core/space.hpp>

#include "../../src/core/matrix_product.hpp"
#include "support/tensor_close.hpp"

using namespace curvature;
using namespace curvature::testing;
using curvature::detail::OneDnnProducts;

BOOST_AUTO_TEST_SUITE(one_dnn_products_test)

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
  const OneDnnProducts one_dnn;
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
    const OneDnnProducts one_dnn;
    { const OneDnnProducts nested; }
    BOOST_TEST(at::equal(a.mm(b), curvature::detail::matrix_product(a, b)));
    std::thread([&] { BOOST_TEST(at::equal(a.mm(b), before)); }).join();
    throw std::runtime_error("leaves the guard");
  };
  BOOST_CHECK_THROW(throws(), std::runtime_error);
  BOOST_TEST(at::equal(a.mm(b), before));
}

BOOST_AUTO_TEST_CASE(scaled_sums_and_other_dtypes_are_left_to_libtorch) {
  const at::Tensor a = draw({100, 100}, at::kFloat, 8), c = draw({100}, at::kFloat, 9);
  const at::Tensor expected = at::addmm(c, a, a, 0.5, 2);
  const OneDnnProducts one_dnn;
  BOOST_TEST(at::equal(at::addmm(c, a, a, 0.5, 2), expected));
  BOOST_CHECK_THROW(a.mm(draw({120, 110}, at::kFloat, 1)), c10::Error);
  BOOST_CHECK_THROW(at::addmm(draw({7}, at::kFloat, 1), a, a), c10::Error);
}

BOOST_AUTO_TEST_SUITE_END()
