// Inner products of examples' gradients, against gradients by plain automatic differentiation.
#include <curvature/core/error.hpp>
#include <curvature/layerwise/gradient_gram.hpp>

#include "support/dense_operator.hpp"
#include "support/problems.hpp"

BOOST_AUTO_TEST_SUITE(gradient_gram_test)

using namespace curvature;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(it_holds_the_inner_products_of_gradients_whatever_fits) {
  for (const Problem& problem : problems()) {
    for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
      BOOST_TEST_CONTEXT(problem) {
        const EmpiricalRisk risk = problem.risk(2, {.reduction = reduction, .weight_decay = 0.5});
        const at::Tensor g = dense_example_gradients(problem, risk);
        // All gradients at once, three at a time, one at a time.
        for (const int64_t budget : {int64_t(1) << 20, 3 * 8 * g.size(1), int64_t(0)}) {
          BOOST_TEST(close(gradient_gram(risk, {.memory_budget = budget}), g.mm(g.t())));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(weights_are_multiplicities_and_chunks_do_not_show) {
  // More examples than are worked on at once.
  const int64_t examples = 300;
  const at::Tensor w = torch::linspace(-1, 1, 3, double_options()).requires_grad_();
  const Model model([w](const TensorList& x) { return x[0].matmul(w); }, {{"w", w}});
  const at::Tensor unit = RandomSource(1).uniform(0, 5 * examples).to(test_device());
  const at::Tensor x = unit.narrow(0, 0, 3 * examples).view({examples, 3});
  const at::Tensor y = unit.narrow(0, 3 * examples, examples);
  const at::Tensor weights = unit.narrow(0, 4 * examples, examples);
  const EmpiricalRisk risk(model, mean_squared_error(), tensor_dataset({x}, y, 64, weights),
                           {.reduction = Reduction::kSum});
  const at::Tensor g =
      2 * (x.matmul(w.detach()) - y).unsqueeze(1) * x * weights.sqrt().unsqueeze(1);
  for (const int64_t budget : {1 << 20, 270 * 24, 100 * 24}) {
    BOOST_TEST(close(gradient_gram(risk, {.memory_budget = budget}), g.mm(g.t())));
  }
  BOOST_CHECK_THROW(gradient_gram(risk, {.memory_budget = -1}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
