#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/matrix_free/jacobian.hpp>
#include <curvature/optim/variational.hpp>

#include "optim/small_problems.hpp"
#include "support/optimizer_laws.hpp"

BOOST_AUTO_TEST_SUITE(variational_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

/// A loss that is linear in the output of one linear layer, so that the gradients of its examples
/// are the same for all weights; what the weights were when the model last ran.
struct LinearLoss {
  torch::nn::Linear layer = seeded(torch::nn::Linear(3, 2), 5);
  std::shared_ptr<at::Tensor> seen = std::make_shared<at::Tensor>();
  at::Tensor inputs = numbers({8, 3}, 1);
  at::Tensor targets = numbers({8, 2}, 2);

  EmpiricalRisk risk() const {
    const Model model(
        [net = layer, sink = seen](const TensorList& x) mutable {
          *sink = at::cat({net->weight.detach(), net->bias.detach().unsqueeze(1)}, 1).clone();
          return net->forward(x[0]);
        },
        {{"weight", layer->weight}, {"bias", layer->bias}});
    const auto loss = [](const at::Tensor& output, const at::Tensor& target) {
      return (output * target).sum(1);
    };
    return EmpiricalRisk(model, differentiable_loss(loss), tensor_dataset({inputs}, targets, 8));
  }
  at::Tensor mean() const {
    return at::cat({layer->weight.detach(), layer->bias.detach().unsqueeze(1)}, 1);
  }
  at::Tensor joint_inputs() const {
    return at::cat({inputs, at::ones_like(inputs.narrow(1, 0, 1))}, 1);
  }

  /// Perturbations of the weights in `count` steps that leave the mean where it is, as rows of
  /// [W | b], row-major.
  at::Tensor perturbations(Minimizer& minimizer, const EmpiricalRisk& batch, int64_t count) const {
    minimizer.step(batch);  // the first step is without noise
    TensorList rows;
    for (int64_t step = 0; step < count; ++step) {
      minimizer.step(batch);
      rows.push_back((*seen - mean()).flatten());
    }
    return at::stack(rows);
  }
};

at::Tensor mean_squares(const EmpiricalRisk& risk) {
  TensorList squares;
  for (const at::Tensor& gradients : per_example_gradients(risk, 0, risk.num_examples())) {
    squares.push_back(gradients.square().mean(0));
  }
  return flat(squares);
}

}  // namespace

BOOST_AUTO_TEST_CASE(vogn_is_a_minimizer) {
  check_minimizer_laws(
      [](const EmpiricalRisk& risk) {
        return vogn(risk, {.learning_rate = 0.05, .prior_precision = 0, .mc_samples = 0});
      },
      {.steps = 400, .excess_loss = 1e-3});
  check_minimizer_laws(
      [](const EmpiricalRisk& risk) {
        return vogn(risk, {.learning_rate = 0.05,
                           .prior_precision = 0,
                           .mc_samples = 2,
                           .num_examples = 10'000'000});
      },
      {.steps = 400, .excess_loss = 1e-2});
}

BOOST_AUTO_TEST_CASE(noisy_kfac_is_a_minimizer) {
  check_minimizer_laws(
      [](const EmpiricalRisk& risk) {
        return noisy_kfac(risk, {.learning_rate = 0.1,
                                 .momentum = 0.5,
                                 .refresh_interval = 2,
                                 .prior_precision = 0,
                                 .damping = 1e-3,
                                 .num_examples = 10'000'000});
      },
      {.steps = 200, .excess_loss = 1e-2});
}

BOOST_AUTO_TEST_CASE(steps_without_noise_by_hand) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
    const EmpiricalRisk risk(Model::from_module(two_layers(false)), cross_entropy(),
                             tensor_dataset({numbers({9, 3}, 1)}, numbers({9, 2}, 2).argmax(1), 4),
                             {.reduction = reduction, .weight_decay = 0.09});
    const VognOptions options{.learning_rate = 0.3,
                              .momentum = 0.8,
                              .decay = 0.6,
                              .prior_precision = 2,
                              .temperature = 0.5,
                              .damping = 0.01,
                              .mc_samples = 0,
                              .num_examples = 20};
    const auto minimizer = vogn(risk, options);
    const double scale = reduction == Reduction::kSum ? 1.0 / 9 : 1;
    const double pull = 0.5 * 2 / 20, decay = scale * 0.09;
    at::Tensor mean = parameters_of(risk), m = at::zeros_like(mean), s = mean_squares(risk);
    for (int step = 0; step < 3; ++step) {
      const at::Tensor gradient = scale * gradient_of(risk) + pull * mean;  // weight decay included
      m = 0.8 * m + gradient;
      if (step > 0) s = 0.6 * s + 0.4 * mean_squares(risk);
      mean = mean - 0.3 * m / (s + pull + decay + 0.01);
      const StepReport report = minimizer->step(risk);
      BOOST_TEST(report.gradient_norm == gradient.norm().item<double>(),
                 boost::test_tools::tolerance(1e-10));
      BOOST_TEST(close(parameters_of(risk), mean, {1e-9}));
    }
  }
}

BOOST_AUTO_TEST_CASE(vogns_weights_have_the_precision_of_its_stationary_point) {
  // N times the mean squared gradient / temperature + prior precision. Each weight's variance over
  // n draws is within 5 sqrt(2 / n) of it, relatively, with probability 1 - 6e-7; the seed is
  // fixed.
  const int64_t n = 4000;
  for (const double temperature : {1.0, 0.25}) {
    const LinearLoss problem;
    const EmpiricalRisk risk = problem.risk();
    const auto minimizer = vogn(risk, {.learning_rate = 0,
                                       .prior_precision = 3,
                                       .temperature = temperature,
                                       .damping = 0,
                                       .num_examples = 40,
                                       .random = RandomSource(4)});
    const at::Tensor draws = problem.perturbations(*minimizer, risk, n);
    const at::Tensor squares = problem.targets.square().t().mm(problem.joint_inputs().square()) / 8;
    const at::Tensor precision = 40 * squares.flatten() / temperature + 3;
    const at::Tensor ratio = draws.square().mean(0) * precision;
    BOOST_TEST((ratio - 1).abs().max().item<double>() < 5 * std::sqrt(2.0 / double(n)));
    // Means are within 5 standard errors of 0.
    BOOST_TEST((draws.mean(0) * precision.sqrt()).abs().max().item<double>() <
               5 / std::sqrt(double(n)));
  }
}

BOOST_AUTO_TEST_CASE(noisy_kfacs_weights_have_the_inverse_curvature_as_covariance) {
  // Whitened by the dense precision, each entry of the second moment of n draws is within
  // 5 sqrt(2 / n) of the identity's with probability 1 - 6e-7 (36 of them: 1 - 3e-5).
  const int64_t n = 4000;
  const LinearLoss problem;
  const EmpiricalRisk risk = problem.risk();
  const auto minimizer = noisy_kfac(risk, {.learning_rate = 0,
                                           .refresh_interval = 50,
                                           .prior_precision = 3,
                                           .temperature = 0.5,
                                           .damping = 0.02,
                                           .num_examples = 40,
                                           .fisher = Fisher::kEmpirical,
                                           .random = RandomSource(4)});
  const at::Tensor draws = problem.perturbations(*minimizer, risk, n);
  const at::Tensor a = problem.joint_inputs().t().mm(problem.joint_inputs()) / 8;
  const at::Tensor b = problem.targets.t().mm(problem.targets) / 8;
  const at::Tensor eye = at::eye(8, a.options());
  const at::Tensor precision = 40 / 0.5 * (at::kron(b, a) + (0.5 * 3 / 40 + 0.02) * eye);
  const at::Tensor whitened = draws.mm(at::linalg_cholesky(precision));
  const at::Tensor moment = whitened.t().mm(whitened) / double(n);
  BOOST_TEST((moment - eye).abs().max().item<double>() < 5 * std::sqrt(2.0 / double(n)));
}

BOOST_AUTO_TEST_CASE(noise_follows_the_seed_and_the_step) {
  const auto draws = [](uint64_t seed) {
    const LinearLoss problem;
    const EmpiricalRisk risk = problem.risk();
    return problem.perturbations(*vogn(risk, {.learning_rate = 0, .random = RandomSource(seed)}),
                                 risk, 2);
  };
  BOOST_TEST(at::equal(draws(1), draws(1)));
  BOOST_TEST(!at::equal(draws(1)[0], draws(1)[1]));
  BOOST_TEST(!at::equal(draws(1), draws(2)));
}

BOOST_AUTO_TEST_CASE(samples_are_averaged) {
  // The loss is linear in the weights, so the mean of its values at samples tells their mean; with
  // many samples it comes close to the loss at the mean.
  const auto distance = [](int64_t samples) {
    const LinearLoss problem;
    const EmpiricalRisk risk = problem.risk();
    const auto minimizer =
        vogn(risk, {.learning_rate = 0, .mc_samples = samples, .random = RandomSource(3)});
    minimizer->step(risk);
    double squares = 0;
    for (int step = 0; step < 30; ++step) {
      squares += std::pow(minimizer->step(risk).loss - risk.loss(), 2);
    }
    return std::sqrt(squares / 30);
  };
  // 1 / sqrt(25) = 0.2 in expectation; each of the two means has a relative error of 1 / sqrt(60).
  BOOST_TEST(distance(25) < 0.4 * distance(1));
}

BOOST_AUTO_TEST_CASE(wrong_options_are_refused) {
  const EmpiricalRisk risk = regression(two_layers(false));
  BOOST_CHECK_THROW(vogn(risk, {.momentum = 1}), OptionError);
  BOOST_CHECK_THROW(vogn(risk, {.decay = 1}), OptionError);
  BOOST_CHECK_THROW(vogn(risk, {.prior_precision = -1}), OptionError);
  BOOST_CHECK_THROW(vogn(risk, {.temperature = 0}), OptionError);
  BOOST_CHECK_THROW(vogn(risk, {.damping = -1}), OptionError);
  BOOST_CHECK_THROW(vogn(risk, {.mc_samples = -1}), OptionError);
  BOOST_CHECK_THROW(vogn(risk, {.num_examples = 0}), OptionError);
  BOOST_CHECK_THROW(noisy_kfac(risk, {.decay = 0}), OptionError);
  BOOST_CHECK_THROW(noisy_kfac(risk, {.refresh_interval = 0}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
