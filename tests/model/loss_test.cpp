// Second-order information of each loss against automatic differentiation of its own terms, and
// samples against the Hessian they stand for.
#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/model/loss.hpp>

#include "support/problems.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(loss_test)

using namespace curvature;
using namespace curvature::testing;
namespace bdata = boost::unit_test::data;

namespace {

/// Hessians of all terms, `[R, C, C]`, by automatic differentiation.
at::Tensor term_hessians(const Loss& loss, const at::Tensor& output, const at::Tensor& targets) {
  const at::Tensor rows = loss.rows(output).detach().requires_grad_();
  const at::Tensor total = loss.terms(loss.unrows(rows, output), targets).sum();
  const at::Tensor gradient = torch::autograd::grad({total}, {rows}, {}, true, true)[0];
  TensorList columns;
  for (int64_t c = 0; c < rows.size(1); ++c) {
    columns.push_back(torch::autograd::grad({gradient.select(1, c).sum()}, {rows}, {}, true)[0]);
  }
  return at::stack(columns, 2);
}

void check_point(const Problem& problem) {
  const Loss& loss = *problem.loss;
  const at::Tensor output = problem.model(problem.inputs).detach();
  const auto point = loss.at(output, problem.targets);
  const at::Tensor expected = term_hessians(loss, output, problem.targets);
  const at::Tensor v = RandomSource(1)
                           .normal(0, expected.size(0), expected.size(1) * 2)
                           .view({expected.size(0), expected.size(1), 2})
                           .to(expected.device());

  const at::Tensor leaf = output.clone().requires_grad_();
  const at::Tensor gradient =
      torch::autograd::grad({loss.terms(leaf, problem.targets).sum()}, {leaf})[0];
  BOOST_TEST(close(point->gradient(), loss.rows(gradient)));
  BOOST_TEST(close(point->hessian_product(v), expected.matmul(v)));
  const at::Tensor root = point->hessian_root();
  BOOST_TEST(close(root.matmul(root.transpose(1, 2)), expected));
  BOOST_TEST(close(loss.unrows(loss.rows(output), output), output, {0, 0}));
}

/// The mean of s s^T over M draws lies within 6 standard errors of H, entry by entry; a wrong alarm
/// for one of the few hundred entries has probability below 1e-6.
void check_samples(const Problem& problem) {
  const Loss& loss = *problem.loss;
  const at::Tensor output = problem.model(problem.inputs).detach();
  const auto point = loss.at(output, problem.targets);
  const int64_t draws = 20000;
  const at::Tensor s = point->samples(RandomSource(3), 0, problem.num_examples(), draws);
  const at::Tensor products = s.unsqueeze(1) * s.unsqueeze(2);  // [R, C, C, M]
  const at::Tensor error = (products.mean(3) - term_hessians(loss, output, problem.targets)).abs();
  const at::Tensor bound = 6 * products.std(3) / std::sqrt(static_cast<double>(draws)) + 1e-12;

  BOOST_TEST(error.le(bound).all().item<bool>());
  // Draws belong to the examples: the second half of the data has the same ones.
  const int64_t half = problem.num_examples() / 2;
  const auto rest = loss.at(output.slice(0, half), problem.targets.slice(0, half))
                        ->samples(RandomSource(3), half, problem.num_examples() - half, 5);
  BOOST_TEST(close(rest, s.slice(0, s.size(0) - rest.size(0)).slice(2, 0, 5)));
}

}  // namespace

BOOST_DATA_TEST_CASE(second_order_information_equals_autodiff, bdata::make(problems()), problem) {
  check_point(problem);
}

BOOST_DATA_TEST_CASE(samples_have_the_hessian_as_second_moment, bdata::make(problems()), problem) {
  check_samples(problem);
}

BOOST_AUTO_TEST_CASE(options_out_of_range_are_refused) {
  BOOST_CHECK_THROW(cross_entropy({.label_smoothing = 1.5}), OptionError);
  BOOST_CHECK_THROW(cross_entropy({.class_weights = at::tensor({-1.0, 1.0})}), OptionError);
  BOOST_CHECK_THROW(cross_entropy({.class_weights = at::ones({2, 2})}), OptionError);
  BOOST_CHECK_THROW(binary_cross_entropy_with_logits({.positive_weights = at::tensor({-1.0})}),
                    OptionError);
  BOOST_CHECK_THROW(differentiable_loss({}), OptionError);
}

BOOST_AUTO_TEST_CASE(class_indices_are_integers_of_any_width) {
  const at::Tensor output = RandomSource(1).normal(0, 4, 2);
  const at::Tensor labels = at::tensor({0, 1, 1, 0}, at::kLong);
  for (const CrossEntropyOptions& options : {CrossEntropyOptions{},
                                             {.class_weights = at::tensor({1.0, 3.0}, at::kDouble)},
                                             {.label_smoothing = 0.1, .ignore_index = 1}}) {
    const LossPtr loss = cross_entropy(options);
    for (const at::ScalarType type : {at::kInt, at::kShort, at::kChar, at::kByte, at::kBool}) {
      const at::Tensor narrow = labels.to(type);
      BOOST_CHECK_NO_THROW(loss->check_targets(narrow, 2, at::kDouble));
      BOOST_TEST(loss->terms(output, narrow).equal(loss->terms(output, labels)));
      BOOST_TEST(loss->normalizers(narrow).equal(loss->normalizers(labels)));
      BOOST_TEST(loss->at(output, narrow)->gradient().equal(loss->at(output, labels)->gradient()));
    }
  }
  BOOST_CHECK_THROW(cross_entropy()->check_targets(at::tensor({2}, at::kInt), 2, at::kDouble),
                    DataError);
}

BOOST_AUTO_TEST_CASE(targets_that_do_not_fit_are_refused) {
  const at::Tensor output = at::zeros({4, 3}, at::kDouble);
  const LossPtr ce = cross_entropy(), mse = mean_squared_error();
  const LossPtr bce = binary_cross_entropy_with_logits();

  BOOST_CHECK_THROW(ce->check_targets(at::tensor({0, 1, 3, 1}, at::kLong), 3, at::kDouble),
                    DataError);
  BOOST_CHECK_THROW(ce->check_targets(at::tensor({0, -100, 2, 1}, at::kLong), 3, at::kDouble),
                    DataError);
  BOOST_CHECK_NO_THROW(cross_entropy({.ignore_index = -100})
                           ->check_targets(at::tensor({0, -100, 2, 1}, at::kLong), 3, at::kDouble));
  BOOST_CHECK_THROW(cross_entropy({.class_weights = at::ones({2}, at::kDouble)})
                        ->check_targets(at::tensor({0, 1}, at::kLong), 3, at::kDouble),
                    OptionError);
  BOOST_CHECK_THROW(ce->check_targets(at::full({4, 3}, 1.5, at::kDouble), 3, at::kDouble),
                    DataError);
  BOOST_CHECK_THROW(mse->check_targets(at::zeros({4, 3}, at::kFloat), 3, at::kDouble), DataError);
  BOOST_CHECK_THROW(mse->check_targets(at::full({4, 3}, NAN, at::kDouble), 3, at::kDouble),
                    DataError);
  BOOST_CHECK_THROW(bce->check_targets(at::full({4, 3}, 2.0, at::kDouble), 3, at::kDouble),
                    DataError);
  BOOST_CHECK_THROW(mse->terms(output, at::zeros({4, 1}, at::kDouble)), DataError);
  BOOST_CHECK_THROW(bce->terms(output, at::zeros({3}, at::kDouble)), DataError);
  BOOST_CHECK_THROW(ce->terms(output, at::zeros({4, 1}, at::kLong)), DataError);
  BOOST_CHECK_THROW(ce->terms(output, {}), DataError);
  BOOST_CHECK_THROW(ce->rows(at::zeros({4}, at::kDouble)), ModelError);
  BOOST_CHECK_THROW(cross_entropy({.class_axis = 0})->rows(output), ModelError);
  BOOST_CHECK_THROW(cross_entropy({.class_axis = 2})->rows(output), ModelError);
}

BOOST_AUTO_TEST_CASE(a_loss_that_is_not_convex_has_no_root) {
  const LossPtr loss = differentiable_loss(
      [](const at::Tensor& output, const at::Tensor&) { return output.cos().sum(1); });
  const auto point = loss->at(at::zeros({2, 3}, at::kDouble), at::zeros({2}, at::kDouble));

  BOOST_TEST(close(point->hessian_product(at::ones({2, 3, 1}, at::kDouble)),
                   -at::ones({2, 3, 1}, at::kDouble)));
  BOOST_CHECK_THROW(point->hessian_root(), NumericalError);
}

BOOST_AUTO_TEST_SUITE_END()
