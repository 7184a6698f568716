#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <curvature/layerwise/squared_gradients.hpp>
#include <curvature/matrix_free/jacobian.hpp>

#include "support/problems.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(squared_gradients_test)

using namespace curvature;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(equal_the_squares_of_example_gradients) {
  for (const Problem& problem : problems()) {
    BOOST_TEST_CONTEXT(problem) {
      const EmpiricalRisk risk = problem.risk(3, {.weight_decay = 0.5});
      const TensorList gradients = per_example_gradients(risk, 0, risk.num_examples());
      const TensorList sums = squared_gradient_sums(risk);
      BOOST_REQUIRE(sums.size() == gradients.size());
      for (size_t i = 0; i < sums.size(); ++i) {
        BOOST_TEST(close(sums[i], gradients[i].square().sum(0), {1e-10, 1e-13}));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(weights_count_examples) {
  const Problem& problem = problems().front();
  const int64_t n = problem.num_examples();
  const at::Tensor weights = torch::arange(n, problem.inputs[0].options());
  const EmpiricalRisk risk(problem.model, problem.loss,
                           tensor_dataset(problem.inputs, problem.targets, 4, weights));
  const TensorList gradients = per_example_gradients(risk, 0, n);
  const TensorList sums = squared_gradient_sums(risk);
  for (size_t i = 0; i < sums.size(); ++i) {
    const at::Tensor expected = weights.matmul(gradients[i].square().flatten(1));
    BOOST_TEST(close(sums[i].flatten(), expected));
  }
}

BOOST_AUTO_TEST_CASE(parameters_without_a_layer_rule_are_squared_example_by_example) {
  const auto options = at::TensorOptions(at::kDouble).device(test_device());
  const at::Tensor weight = torch::arange(1, 7, options).view({3, 2}).requires_grad_();
  const at::Tensor power = torch::full({2}, 1.5, options).requires_grad_();
  const Model model(
      [=](const TensorList& x) { return (x[0].matmul(weight).square() + 1).pow(power); },
      {{"weight", weight}, {"power", power}});
  const at::Tensor x = torch::linspace(-0.2, 0.3, 12, options).view({4, 3});
  const EmpiricalRisk risk(model, mean_squared_error(),
                           tensor_dataset({x}, torch::zeros({4, 2}, options), 2));
  const TensorList gradients = per_example_gradients(risk, 0, 4);
  const TensorList sums = squared_gradient_sums(risk);
  for (size_t i = 0; i < sums.size(); ++i) {
    BOOST_TEST(close(sums[i], gradients[i].square().sum(0)));
  }
}

BOOST_AUTO_TEST_SUITE_END()
