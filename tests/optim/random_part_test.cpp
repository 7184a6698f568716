#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <map>

#include "optim/random_part.hpp"
#include "optim/small_problems.hpp"

BOOST_AUTO_TEST_SUITE(random_part_test)

using namespace curvature;
using namespace curvature::optim::detail;
using namespace curvature::testing;

namespace {

/// A model whose only input is the number of the example.
EmpiricalRisk numbered(int64_t count, int64_t batch_size, RiskOptions options = {},
                       const at::Tensor& weights = {}) {
  const auto numbers = at::TensorOptions(at::kDouble).device(test_device());
  const at::Tensor w = at::ones({}, numbers).requires_grad_();
  return EmpiricalRisk(Model([=](const TensorList& x) { return x[0] * w; }, {{"w", w}}),
                       mean_squared_error(),
                       tensor_dataset({at::arange(count, numbers).unsqueeze(1)},
                                      at::zeros({count, 1}, numbers), batch_size, weights),
                       std::move(options));
}

std::vector<int64_t> examples_of(const EmpiricalRisk& risk) {
  std::vector<int64_t> examples;
  for (int64_t index = 0; index < risk.data().num_batches(); ++index) {
    const at::Tensor numbers = risk.data().batch(index).inputs[0].flatten().cpu();
    for (int64_t i = 0; i < numbers.size(0); ++i) {
      examples.push_back(static_cast<int64_t>(numbers[i].item<double>()));
    }
  }
  return examples;
}

std::vector<int64_t> drawn(const EmpiricalRisk& risk, double fraction, uint64_t stream,
                           uint64_t seed = 1) {
  return examples_of(random_part(risk, fraction, RandomSource(seed), stream).risk);
}

}  // namespace

BOOST_AUTO_TEST_CASE(sizes_are_rounded_up) {
  for (const auto& [fraction, count] : std::map<double, size_t>{
           {1e-9, 1}, {0.1, 3}, {0.125, 4}, {0.5, 15}, {0.51, 16}, {0.999, 30}, {1, 30}}) {
    BOOST_TEST(drawn(numbered(30, 7), fraction, 0).size() == count);
  }
  BOOST_TEST(drawn(numbered(1, 7), 0.1, 0).size() == 1u);
}

BOOST_AUTO_TEST_CASE(all_examples_are_left_as_they_are) {
  const EmpiricalRisk risk = numbered(9, 4);
  const Part all = random_part(risk, 1, RandomSource(1), 0);
  BOOST_TEST(&all.risk.data() == &risk.data());
  BOOST_TEST(all.scale == 1);
}

BOOST_AUTO_TEST_CASE(examples_are_those_of_the_smallest_numbers_batch_by_batch) {
  const EmpiricalRisk risk = numbered(10, 4, {.first_example = 50});
  const at::Tensor order = std::get<1>(RandomSource(1).uniform(3, 10).sort());
  const at::Tensor first = std::get<0>(order.narrow(0, 0, 5).sort());
  std::vector<int64_t> expected;
  for (int64_t i = 0; i < 5; ++i) expected.push_back(first[i].item<int64_t>());
  BOOST_TEST(drawn(risk, 0.5, 3) == expected, boost::test_tools::per_element());
  const EmpiricalRisk part = random_part(risk, 0.5, RandomSource(1), 3).risk;
  BOOST_TEST(part.options().first_example == 50);
  for (int64_t index = 0; index < part.data().num_batches(); ++index) {
    BOOST_TEST(part.data().batch(index).size() <= 4);
  }
  BOOST_TEST(drawn(risk, 0.5, 3) == drawn(risk, 0.5, 3));
  BOOST_TEST(drawn(risk, 0.5, 3) != drawn(risk, 0.5, 4));
  BOOST_TEST(drawn(risk, 0.5, 3) != drawn(risk, 0.5, 3, 2));
}

BOOST_AUTO_TEST_CASE(every_example_has_its_turn) {
  // 2000 draws of 3 out of 12: each example 500 times, with a standard deviation of 19.
  const EmpiricalRisk risk = numbered(12, 12);
  std::map<int64_t, int> times;
  for (uint64_t stream = 0; stream < 2000; ++stream) {
    for (const int64_t example : drawn(risk, 0.25, stream)) ++times[example];
  }
  BOOST_TEST(times.size() == 12u);
  for (const auto& [example, count] : times) BOOST_TEST(std::abs(count - 500) < 5 * 19);
}

BOOST_AUTO_TEST_CASE(examples_that_do_not_count_are_passed_over) {
  const auto numbers = at::TensorOptions(at::kDouble).device(test_device());
  const at::Tensor weights = at::tensor({0.0, 1.0, 2.0, 0.0, 3.0, 1.0}, numbers);
  for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
    const EmpiricalRisk risk = numbered(6, 4, {.reduction = reduction}, weights);
    for (uint64_t stream = 0; stream < 20; ++stream) {
      const Part part = random_part(risk, 0.5, RandomSource(1), stream);
      const std::vector<int64_t> examples = examples_of(part.risk);
      BOOST_TEST(examples.size() == 2u);  // of four
      double weight = 0;
      for (const int64_t example : examples) weight += weights[example].item<double>();
      BOOST_TEST(weight > 0);
      BOOST_TEST(part.risk.total_weight() == weight);
      BOOST_TEST(part.scale == (reduction == Reduction::kSum ? 7 / weight : 1));
    }
  }
  const auto net = seeded(torch::nn::Sequential(torch::nn::Linear(2, 3)), 1);
  const at::Tensor labels = at::tensor({0, -100, -100, 2, -100}, numbers.dtype(at::kLong));
  const EmpiricalRisk masked(Model::from_module(net), cross_entropy({.ignore_index = -100}),
                             tensor_dataset({testing::numbers({5, 2}, 1)}, labels, 5),
                             {.reduction = Reduction::kSum});
  for (uint64_t stream = 0; stream < 5; ++stream) {
    const Part part = random_part(masked, 0.5, RandomSource(1), stream);
    BOOST_TEST(part.risk.data().batch(0).targets.ge(0).all().item<bool>());
    BOOST_TEST(part.scale == 2);
  }
}

BOOST_AUTO_TEST_CASE(sums_over_parts_are_those_of_all_in_the_mean) {
  // Loss terms n^2: the mean of 3 of 9, thrice; standard errors from the draws themselves.
  const EmpiricalRisk risk = numbered(9, 4, {.reduction = Reduction::kSum});
  std::vector<double> losses;
  for (uint64_t stream = 0; stream < 1000; ++stream) {
    const Part part = random_part(risk, 1.0 / 3, RandomSource(4), stream);
    losses.push_back(part.scale * part.risk.loss());
  }
  const at::Tensor all = at::tensor(losses, at::kDouble);
  const double error = all.std().item<double>() / std::sqrt(1000.0);
  BOOST_TEST(std::abs(all.mean().item<double>() - risk.loss()) < 4 * error);
}

BOOST_AUTO_TEST_SUITE_END()
