#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/model/empirical_risk.hpp>

#include "support/problems.hpp"
#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(empirical_risk_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

const Problem& labels_problem() { return problems().front(); }

EmpiricalRisk risk_on(const at::Tensor& inputs, const at::Tensor& targets,
                      at::Tensor weights = {}) {
  const Problem& problem = labels_problem();
  return EmpiricalRisk(problem.model, problem.loss, tensor_dataset({inputs}, targets, 3, weights));
}

template <class Net>
EmpiricalRisk risk_of(Net net, const at::Tensor& inputs) {
  net->to(at::kDouble);
  const at::Tensor targets = at::zeros(net->forward(inputs).sizes(), at::kDouble);
  return EmpiricalRisk(Model::from_module(net), mean_squared_error(),
                       tensor_dataset({inputs}, targets, 4));
}

/// Whether `error` names `word`, so that the message is about the right thing.
auto mentions(std::string word) {
  return [word](const std::exception& error) {
    return std::string(error.what()).find(word) != std::string::npos;
  };
}

}  // namespace

BOOST_AUTO_TEST_CASE(an_integer_weight_is_a_repeated_example) {
  const Problem& problem = labels_problem();
  const at::Tensor x = problem.inputs[0], y = problem.targets;
  const at::Tensor counts = at::tensor({1, 0, 2, 1, 3, 1, 1}, at::kLong);
  const EmpiricalRisk weighted = risk_on(x, y, counts.to(at::kDouble));
  const EmpiricalRisk repeated =
      risk_on(x.repeat_interleave(counts, 0), y.repeat_interleave(counts, 0));

  BOOST_TEST(weighted.loss() == repeated.loss(), boost::test_tools::tolerance(1e-13));
  BOOST_TEST(close(materialize(*hessian(weighted)), materialize(*hessian(repeated))));
  BOOST_TEST(close(materialize(*ggn(weighted)), materialize(*ggn(repeated))));
  BOOST_TEST(
      close(materialize(*empirical_fisher(weighted)), materialize(*empirical_fisher(repeated))));
  BOOST_TEST(close(materialize(*gradient_covariance(weighted)),
                   materialize(*gradient_covariance(repeated))));
  BOOST_TEST(close(*ggn_diagonal(weighted)->diagonal(), *ggn_diagonal(repeated)->diagonal()));
}

BOOST_AUTO_TEST_CASE(data_that_cannot_be_right_are_refused) {
  const Problem& problem = labels_problem();
  const at::Tensor x = problem.inputs[0], y = problem.targets;
  at::Tensor nan = x.clone(), label = y.clone();
  nan[5][1] = NAN;
  label[6] = 3;

  BOOST_CHECK_EXCEPTION(risk_on(nan, y), DataError, mentions("batch 1, input 0"));
  BOOST_CHECK_EXCEPTION(risk_on(x, label), DataError, mentions("0..2; got 3"));
  BOOST_CHECK_THROW(risk_on(x, y.to(at::kDouble)), DataError);
  BOOST_CHECK_THROW(risk_on(x, y, at::full({7}, -1.0)), DataError);
  BOOST_CHECK_EXCEPTION(risk_on(x, y, at::zeros({7})), DataError, mentions("no loss term counts"));
  BOOST_CHECK_EXCEPTION(risk_on(x.narrow(1, 0, 2), y), ModelError, mentions("shapes"));
  BOOST_CHECK_THROW(risk_on(x.to(at::kFloat), y), ModelError);
}

BOOST_AUTO_TEST_CASE(options_that_cannot_be_right_are_refused) {
  const Problem& problem = labels_problem();

  BOOST_CHECK_THROW(problem.risk(3, {.weight_decay = -1}), OptionError);
  BOOST_CHECK_EXCEPTION(problem.risk(3, {.parameters = {"1.*"}}), OptionError, mentions("1.*"));
  BOOST_CHECK_THROW(hessian(problem.risk(3), {.memory_budget = -1}), OptionError);
  BOOST_CHECK_THROW(EmpiricalRisk(problem.model, nullptr, nullptr), OptionError);
  auto frozen = torch::nn::Linear(2, 1);
  frozen->weight.requires_grad_(false);
  const DatasetPtr data = tensor_dataset({at::ones({2, 2})}, at::ones({2, 1}), 2);
  const Model model = Model::from_module(frozen);
  BOOST_TEST(EmpiricalRisk(model, mean_squared_error(), data).space().size() == 1);
  BOOST_CHECK_THROW(EmpiricalRisk(model, mean_squared_error(), data, {.parameters = {"weight"}}),
                    OptionError);
}

BOOST_AUTO_TEST_CASE(dropout_in_training_mode_is_refused_and_leaves_the_generator_alone) {
  torch::nn::Sequential net(torch::nn::Linear(3, 4), torch::nn::Dropout(1e-9),
                            torch::nn::Linear(4, 1));
  const at::Tensor x = at::ones({5, 3}, at::kDouble);
  at::manual_seed(5);
  const at::Tensor expected = at::rand({3});
  net->to(at::kDouble);
  const DatasetPtr data = tensor_dataset({x}, at::zeros({5, 1}, at::kDouble), 4);
  at::manual_seed(5);

  BOOST_CHECK_EXCEPTION(EmpiricalRisk(Model::from_module(net), mean_squared_error(), data),
                        ModelError, mentions("model.eval()"));
  BOOST_TEST(at::rand({3}).equal(expected));
  BOOST_TEST(net->is_training());
  net->eval();
  BOOST_CHECK_NO_THROW(EmpiricalRisk(Model::from_module(net), mean_squared_error(), data));
}

BOOST_AUTO_TEST_CASE(batch_statistics_are_refused_and_running_ones_restored) {
  const at::Tensor x = RandomSource(2).normal(0, 5, 3);
  for (const bool running : {true, false}) {
    torch::nn::BatchNorm1d norm(torch::nn::BatchNormOptions(3).track_running_stats(running));
    norm->to(at::kDouble);
    const DatasetPtr data = tensor_dataset({x}, at::zeros({5, 3}, at::kDouble), 4);

    BOOST_CHECK_EXCEPTION(EmpiricalRisk(Model::from_module(norm), mean_squared_error(), data),
                          ModelError, mentions("model.eval()"));
    if (running) BOOST_TEST(norm->running_mean.eq(0).all().item<bool>());
  }
  torch::nn::BatchNorm1d norm(3);
  norm->eval();
  BOOST_CHECK_NO_THROW(risk_of(norm, x));
}

BOOST_AUTO_TEST_CASE(a_model_that_normalises_over_the_batch_is_refused) {
  const at::Tensor w = at::ones({1}, at::kDouble).requires_grad_();
  const Model model([w](const TensorList& x) { return (x[0] - x[0].mean()) * w; }, {{"w", w}});
  const DatasetPtr data =
      tensor_dataset({at::arange(6, at::kDouble).view({6, 1})}, at::zeros({6, 1}, at::kDouble), 3);

  BOOST_CHECK_EXCEPTION(EmpiricalRisk(model, mean_squared_error(), data), ModelError,
                        mentions("other examples"));
}

BOOST_AUTO_TEST_CASE(advice_on_training_mode_serves_both_languages) {
  torch::nn::BatchNorm1d norm(3);
  for (const std::string word : {"torch.jit.script", "Model::from_module"}) {
    BOOST_CHECK_EXCEPTION(risk_of(norm, RandomSource(2).normal(0, 5, 3)), ModelError,
                          mentions(word));
  }
}

BOOST_AUTO_TEST_CASE(the_loss_is_of_the_function_that_is_differentiated) {
  // As nn.TransformerEncoder does with its nested tensors: another result without gradients, which
  // depends on what else is in the batch.
  const at::Tensor w = at::ones({1}, at::kDouble).requires_grad_();
  const Model model(
      [w](const TensorList& x) {
        return at::GradMode::is_enabled() ? x[0] * w : (x[0] - x[0].mean()) * w;
      },
      {{"w", w}});
  const DatasetPtr data =
      tensor_dataset({at::arange(6, at::kDouble).view({6, 1})}, at::zeros({6, 1}, at::kDouble), 4);
  const EmpiricalRisk risk(model, mean_squared_error(), data);

  BOOST_TEST(risk.loss() == 55.0 / 6, boost::test_tools::tolerance(1e-12));
  BOOST_TEST(risk.loss() == risk.loss_and_gradient().loss);
}

BOOST_AUTO_TEST_CASE(a_model_that_changes_its_input_in_place_gets_a_copy) {
  const at::Tensor w = RandomSource(2).normal(0, 3, 2).requires_grad_();
  const auto risk_of_function = [&](const Model::Function& function, const at::Tensor& x) {
    return EmpiricalRisk(Model(function, {{"w", w}}), mean_squared_error(),
                         tensor_dataset({x}, at::ones({5, 2}, at::kDouble), 2));
  };
  const at::Tensor x = RandomSource(1).normal(0, 5, 3), before = x.clone();
  const EmpiricalRisk in_place = risk_of_function(
      [w](const TensorList& inputs) { return at::Tensor(inputs[0]).div_(2).matmul(w).tanh(); }, x);
  const EmpiricalRisk plain = risk_of_function(
      [w](const TensorList& inputs) { return (inputs[0] / 2).matmul(w).tanh(); }, before);

  for (int run = 0; run < 2; ++run) {
    BOOST_TEST(in_place.loss() == plain.loss());
    BOOST_TEST(close(in_place.gradient()[0], plain.gradient()[0]));
    BOOST_TEST(close(materialize(*hessian(in_place)), materialize(*hessian(plain))));
    BOOST_TEST(close(materialize(*ggn(in_place)), materialize(*ggn(plain))));
    BOOST_TEST(close(*ggn_diagonal(in_place)->diagonal(), *ggn_diagonal(plain)->diagonal()));
  }
  BOOST_TEST(x.equal(before));
}

BOOST_AUTO_TEST_CASE(batches_that_are_not_there_are_refused) {
  const EmpiricalRisk risk = labels_problem().risk(3);
  const int64_t count = risk.data().num_batches();
  BOOST_CHECK_EXCEPTION(risk.on(count), OptionError, mentions("among 0.."));
  BOOST_CHECK_THROW(risk.on(-1), OptionError);
}

BOOST_AUTO_TEST_CASE(unused_parameters_are_named) {
  const Problem& recurrent = problems()[6];
  const std::vector<std::string> expected = {"spare.weight", "spare.bias"};

  BOOST_TEST(recurrent.risk(3).unused_parameters() == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(tied_parameters_count_once_under_their_first_name) {
  const at::Tensor w = at::ones({2, 2}, at::kDouble).requires_grad_();
  const Model model([w](const TensorList& x) { return x[0].matmul(w).tanh().matmul(w.t()); },
                    {{"first", w}, {"second", w}});

  BOOST_TEST(model.parameters().size() == 1U);
  BOOST_TEST(model.parameters().front().name == "first");
}

BOOST_AUTO_TEST_CASE(models_that_cannot_be_used_are_refused) {
  const at::Tensor w = at::ones({2}, at::kDouble).requires_grad_();
  const Model::Function f = [w](const TensorList& x) { return x[0].matmul(w); };

  BOOST_CHECK_THROW(Model(f, {}), ModelError);
  BOOST_CHECK_THROW(Model({}, {{"w", w}}), ModelError);
  BOOST_CHECK_THROW(Model(f, {{"w", w}, {"v", at::ones({2}, at::kFloat)}}), ModelError);
  BOOST_CHECK_THROW(Model(f, {{"w", at::ones({2}, at::kLong)}}), ModelError);
  BOOST_CHECK_THROW(Model(f, {{"w", w * 2}}), ModelError);
  const Model constant([](const TensorList&) { return at::ones({1}, at::kDouble); }, {{"w", w}});
  BOOST_CHECK_EXCEPTION(
      EmpiricalRisk(constant, mean_squared_error(),
                    tensor_dataset({at::ones({3, 2})}, at::ones({3}, at::kDouble), 3)),
      ModelError, mentions("example axis first"));
}

BOOST_AUTO_TEST_CASE(other_data_give_the_risk_made_of_them) {
  for (const Problem& problem : problems()) {
    const EmpiricalRisk whole = problem.risk(3, {.weight_decay = 0.1});
    TensorList few;
    for (const at::Tensor& input : problem.inputs) few.push_back(input.slice(0, 1, 3));
    const DatasetPtr data = tensor_dataset(few, problem.targets.slice(0, 1, 3), 2);
    const EmpiricalRisk expected(problem.model, problem.loss, data, {.weight_decay = 0.1});

    const EmpiricalRisk part = whole.with_data(data, 7);

    const auto [loss, gradient] = part.loss_and_gradient();
    BOOST_TEST(loss == expected.loss(), boost::test_tools::tolerance(1e-12));
    const TensorList reference = expected.gradient();
    for (size_t i = 0; i < gradient.size(); ++i) {
      BOOST_TEST(close(gradient[i], reference[i], {.relative = 1e-12}), problem.name);
    }
    BOOST_TEST(part.num_examples() == 2);
    BOOST_TEST(part.on(0).first_example() == 7);
    BOOST_TEST(whole.num_examples() == problem.num_examples());
  }
}

BOOST_AUTO_TEST_CASE(fast_kernels_leave_loss_gradient_and_products_what_they_are) {
  // Large enough that convolutions go by tiles and the last product through oneDNN.
  const auto convolution = [](int64_t in, int64_t out) {
    return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).padding(1));
  };
  torch::manual_seed(1);
  torch::nn::Sequential net(convolution(192, 192), torch::nn::Tanh(), convolution(192, 256),
                            torch::nn::Tanh(), torch::nn::Flatten(),
                            torch::nn::Linear(256 * 8 * 9, 100));
  const at::Tensor inputs = at::randn({100, 192, 8, 9}), targets = at::randn({100, 100});
  const auto risk_in = [&](at::ScalarType dtype) {
    net->to(dtype);
    return EmpiricalRisk(Model::from_module(net), mean_squared_error(),
                         tensor_dataset({inputs.to(dtype)}, targets.to(dtype), 60));
  };
  struct Results {
    double loss;
    TensorList gradient;
    at::Tensor hessian_product, ggn_product;
  };
  const auto results_in = [&](at::ScalarType dtype) {
    const EmpiricalRisk risk = risk_in(dtype);
    const at::Tensor v = at::arange(risk.space().size(), at::kDouble).cos().to(dtype);
    return Results{risk.loss(), risk.gradient(), hessian(risk)->apply(v), ggn(risk)->apply(v)};
  };
  const Results exact = results_in(at::kDouble), actual = results_in(at::kFloat);
  constexpr double kRounding = 1e-5;
  BOOST_TEST(actual.loss == exact.loss, boost::test_tools::tolerance(kRounding));
  for (size_t i = 0; i < exact.gradient.size(); ++i) {
    BOOST_TEST(close(actual.gradient[i].to(at::kDouble), exact.gradient[i], {kRounding, 0}));
  }
  BOOST_TEST(close(actual.hessian_product.to(at::kDouble), exact.hessian_product, {kRounding, 0}));
  BOOST_TEST(close(actual.ggn_product.to(at::kDouble), exact.ggn_product, {kRounding, 0}));
}

BOOST_AUTO_TEST_SUITE_END()
