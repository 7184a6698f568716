// U U^T against dense automatic differentiation and the matrix-free operators, and solves in the
// space of the data.
#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <variant>

#include <curvature/core/error.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/solvers/conjugate_gradient.hpp>
#include <curvature/solvers/direct.hpp>

#include "support/problems.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(ggn_low_rank_test)

using namespace curvature;
using namespace curvature::testing;
namespace bdata = boost::unit_test::data;

namespace {

at::Tensor right_hand_side(const EmpiricalRisk& risk) {
  return RandomSource(7).normal(0, risk.space().size()).to(test_device());
}

at::Tensor dense_solve(const at::Tensor& a, double damping, const at::Tensor& b) {
  return at::linalg_solve(a + damping * at::eye(a.size(0), a.options()), b);
}

int64_t columns_of(const OperatorPtr& a) {
  const Structure structure = a->structure();
  return std::get<LowRankStructure>(structure).factor.size(1);
}

/// Seven examples, three classes, one label ignored, weights of 0, 1/2, 1 and 2; P = 123.
EmpiricalRisk weighted_classification(Reduction reduction, int64_t batch_size) {
  torch::manual_seed(3);
  torch::nn::Sequential net(torch::nn::Linear(4, 15), torch::nn::Tanh(), torch::nn::Linear(15, 3));
  net->to(test_device(), at::kDouble);
  const auto options = at::TensorOptions(at::kDouble).device(test_device());
  const at::Tensor inputs = RandomSource(1).normal(0, 28).view({7, 4}).to(test_device());
  const at::Tensor labels = at::tensor({0, 2, 1, -100, 1, 0, 2}, options.dtype(at::kLong));
  const at::Tensor weights = at::tensor({0.5, 1.0, 2.0, 1.0, 0.0, 1.0, 0.5}, options);
  return EmpiricalRisk(Model::from_module(net), cross_entropy({.ignore_index = -100}),
                       tensor_dataset({inputs}, labels, batch_size, weights),
                       {.reduction = reduction, .weight_decay = 0.3});
}

}  // namespace

BOOST_DATA_TEST_CASE(equal_the_matrix_free_operators, bdata::make(problems()), problem) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
    const EmpiricalRisk risk = problem.risk(3, {.reduction = reduction, .weight_decay = 0.3});
    const MonteCarloOptions sampled{.samples = 3, .random = RandomSource(5)};
    BOOST_TEST(close(materialize(*ggn_low_rank(risk)), dense_ggn(problem, risk)));
    BOOST_TEST(close(materialize(*empirical_fisher_low_rank(risk)),
                     dense_empirical_fisher(problem, risk)));
    BOOST_TEST(
        close(materialize(*ggn_mc_low_rank(risk, sampled)), materialize(*ggn_mc(risk, sampled))));
  }
}

BOOST_DATA_TEST_CASE(solve_as_dense_factorisations_do, bdata::make(problems()), problem) {
  const EmpiricalRisk risk = problem.risk(3, {.weight_decay = 0.01});
  const at::Tensor b = right_hand_side(risk);
  for (const double damping : {1e-4, 0.1}) {
    const OperatorPtr inverse_ggn = inverse(shifted(ggn_low_rank(risk), damping));
    BOOST_TEST(
        close(inverse_ggn->apply(b), dense_solve(dense_ggn(problem, risk), damping, b), {1e-9}));
    const OperatorPtr inverse_fisher = inverse(shifted(empirical_fisher_low_rank(risk), damping));
    BOOST_TEST(close(inverse_fisher->apply(b),
                     dense_solve(dense_empirical_fisher(problem, risk), damping, b), {1e-9}));
  }
}

BOOST_AUTO_TEST_CASE(weights_and_ignored_labels_count) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
    const EmpiricalRisk risk = weighted_classification(reduction, 3);
    const OperatorPtr low_rank = ggn_low_rank(risk);
    const at::Tensor dense = materialize(*ggn(risk)), b = right_hand_side(risk);
    BOOST_TEST(close(materialize(*low_rank), dense));
    const at::Tensor expected = dense_solve(dense, 0.05, b);
    const OperatorPtr system = shifted(low_rank, 0.05);
    BOOST_TEST(close(inverse(system)->apply(b), expected, {1e-9}));
    BOOST_TEST(close(solve(system, b, direct()).x, expected, {1e-9}));
    const SolverPtr cg = conjugate_gradient({.relative_residual = 1e-12});
    BOOST_TEST(close(solve(shifted(ggn(risk), 0.05), b, cg).x, expected, {1e-9}));
    // Of seven examples one is ignored and one has no weight.
    BOOST_TEST(columns_of(low_rank) == 5 * 3);
    BOOST_TEST(columns_of(empirical_fisher_low_rank(risk)) == 5);
    BOOST_TEST(columns_of(ggn_mc_low_rank(risk, {.samples = 2})) == 5 * 2);
    BOOST_TEST(close(materialize(*ggn_mc_low_rank(risk, {.samples = 2})),
                     materialize(*ggn_mc(risk, {.samples = 2}))));
    // Does not depend on how the examples are cut into batches.
    BOOST_TEST(close(materialize(*ggn_low_rank(weighted_classification(reduction, 7))), dense));
  }
}

BOOST_AUTO_TEST_CASE(batches_may_have_sequences_of_any_length) {
  const auto options = at::TensorOptions(at::kDouble).device(test_device());
  const at::Tensor w = RandomSource(2).normal(0, 6).view({3, 2}).to(options).requires_grad_();
  const Model model([=](const TensorList& x) { return x[0].matmul(w).tanh(); }, {{"w", w}});
  for (const std::vector<int64_t>& lengths : {std::vector<int64_t>{2, 5}, {5, 2}, {1, 4, 2, 7}}) {
    std::vector<Batch> batches;
    for (const int64_t length : lengths) {
      const at::Tensor x = RandomSource(length).normal(0, 4 * length * 3).view({4, length, 3});
      batches.push_back({.inputs = {x.to(options)},
                         .targets = x.select(2, 0).gt(0).to(options.dtype(at::kLong)),
                         .weights = {}});
    }
    const EmpiricalRisk risk(model, cross_entropy(), batch_dataset(batches));
    BOOST_TEST(close(materialize(*ggn_low_rank(risk)), materialize(*ggn(risk))));
    BOOST_TEST(close(materialize(*ggn_mc_low_rank(risk, {.samples = 2})),
                     materialize(*ggn_mc(risk, {.samples = 2}))));
    BOOST_TEST(
        close(materialize(*empirical_fisher_low_rank(risk)), materialize(*empirical_fisher(risk))));
  }
}

BOOST_AUTO_TEST_CASE(without_residuals_nothing_but_the_damping_is_left) {
  const auto options = at::TensorOptions(at::kDouble).device(test_device());
  const at::Tensor w = at::ones({3}, options).requires_grad_();
  const at::Tensor x = RandomSource(1).normal(0, 12).view({4, 3}).to(test_device());
  const EmpiricalRisk risk(
      Model([=](const TensorList& inputs) { return inputs[0].mv(w); }, {{"w", w}}),
      mean_squared_error(), tensor_dataset({x}, x.mv(w.detach()), 4));
  const OperatorPtr fisher = empirical_fisher_low_rank(risk);
  const at::Tensor b = right_hand_side(risk);
  BOOST_TEST(columns_of(fisher) == 0);
  BOOST_TEST(close(inverse(shifted(fisher, 0.2))->apply(b), b / 0.2));
}

BOOST_AUTO_TEST_CASE(absurd_sizes_are_refused_before_they_are_taken) {
  // A million parameters, a million columns: 48 TB.
  const auto options = at::TensorOptions(at::kDouble).device(test_device());
  const at::Tensor w = at::ones({1000000}, options).requires_grad_();
  const Model model(
      [=](const TensorList& x) {
        return (x[0] * w.mean()).expand({-1, 1000});
      },
      {{"w", w}});
  const EmpiricalRisk risk(
      model, mean_squared_error(),
      tensor_dataset({at::ones({1000, 1}, options)}, at::zeros({1000, 1000}, options), 1000));
  BOOST_CHECK_EXCEPTION(ggn_low_rank(risk), OptionError, [](const OptionError& error) {
    return std::string(error.what()).find("U [1000000, 1000000]") != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(more_columns_than_a_matrix_may_have_are_refused_too) {
  // One parameter, a million columns: U is small, U^T U is not.
  const auto options = at::TensorOptions(at::kDouble).device(test_device());
  const at::Tensor w = at::ones({1}, options).requires_grad_();
  const EmpiricalRisk risk(
      Model([=](const TensorList& x) { return x[0] * w; }, {{"w", w}}), mean_squared_error(),
      tensor_dataset({at::ones({1000000, 1}, options)}, at::zeros({1000000, 1}, options), 1000));
  BOOST_CHECK_THROW(ggn_low_rank(risk), OptionError);
}

BOOST_AUTO_TEST_CASE(wrong_options_are_refused) {
  const EmpiricalRisk risk = weighted_classification(Reduction::kMean, 7);
  BOOST_CHECK_THROW(ggn_low_rank(risk, {.blocks = Blocks::kLayer}), OptionError);
  BOOST_CHECK_THROW(ggn_mc_low_rank(risk, {.samples = 0}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
