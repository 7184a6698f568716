// Natural gradients by layers; the laws, steps, dampings and errors that all of them share.
#include <boost/test/unit_test.hpp>

#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/layerwise/kfac_estimator.hpp>
#include <curvature/matrix_free/ggn.hpp>

#include "optim/natural_gradient.hpp"
#include "support/optimizer_laws.hpp"

BOOST_AUTO_TEST_SUITE(natural_gradient_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

EmpiricalRisk one_layer(RiskOptions options = {}) {
  return regression(seeded(torch::nn::Sequential(torch::nn::Linear(3, 2)), 5), std::move(options));
}

}  // namespace

BOOST_AUTO_TEST_CASE(natural_gradients_are_minimizers) {
  for (const FisherApproximation curvature :
       {FisherApproximation::kKfac, FisherApproximation::kEkfac, FisherApproximation::kKfoc,
        FisherApproximation::kFull}) {
    BOOST_TEST_CONTEXT("curvature " << static_cast<int>(curvature)) {
      check_minimizer_laws([&](const EmpiricalRisk& risk) {
        return natural_gradient(risk, {.curvature = curvature,
                                       .learning_rate = 0.5,
                                       .momentum = 0.5,
                                       .step_size = StepSize::kFixed,
                                       .damping = 0.1,
                                       .refresh_interval = 2,
                                       .fisher = Fisher::kType2});
      });
    }
  }
}

BOOST_AUTO_TEST_CASE(sampled_statistics_with_defaults_are_a_minimizer) {
  check_minimizer_laws([](const EmpiricalRisk& risk) { return natural_gradient(risk); },
                       {.steps = 300, .excess_loss = 1e-2});
}

BOOST_AUTO_TEST_CASE(step_sizes_and_adaptive_damping_are_minimizers) {
  check_minimizer_laws(
      [](const EmpiricalRisk& risk) {
        return natural_gradient(risk, {.learning_rate = 1,
                                       .step_size = StepSize::kQuadraticModel,
                                       .damping = 1,
                                       .damping_kind = KroneckerDamping::kHeuristicPi,
                                       .damping_rule = DampingRule::kLevenbergMarquardt,
                                       .damping_interval = 2,
                                       .factor_damping_interval = 3,
                                       .reject_increase = true,
                                       .statistics_interval = 2,
                                       .refresh_interval = 3});
      },
      {.steps = 50});
  check_minimizer_laws(
      [](const EmpiricalRisk& risk) {
        return natural_gradient(risk, {.learning_rate = 1,
                                       .momentum = 0,
                                       .step_size = StepSize::kTrustRegion,
                                       .trust_radius = 0.1,
                                       .damping_kind = KroneckerDamping::kKullbackLeibler,
                                       .damping_rule = DampingRule::kNielsen,
                                       .fisher = Fisher::kType2});
      },
      {.steps = 100});
}

BOOST_AUTO_TEST_CASE(exact_blocks_give_the_dense_natural_gradient) {
  // Deep linear networks with squared error: K-FAC's blocks are the GGN's (assertion A5).
  for (const double weight_decay : {0.0, 0.3}) {
    const EmpiricalRisk risk = regression(two_layers(true), {.weight_decay = weight_decay});
    const at::Tensor blocks = materialize(*ggn(risk, {.blocks = Blocks::kLayer}));
    const at::Tensor expected = -at::linalg_solve(blocks + 0.1 * eye_of(blocks), gradient_of(risk));
    BOOST_TEST(close(first_step(risk, plain()), expected, {1e-8}));
  }
}

BOOST_AUTO_TEST_CASE(every_curvature_and_damping_is_the_operators_own) {
  for (const KroneckerDamping kind :
       {KroneckerDamping::kExact, KroneckerDamping::kPerFactor, KroneckerDamping::kHeuristicPi,
        KroneckerDamping::kKullbackLeibler}) {
    for (const bool relative : {false, true}) {
      const EmpiricalRisk risk = regression(two_layers(false));
      const DampingOptions damping{.damping = 0.1, .kind = kind, .relative = relative};
      NaturalGradientOptions options = plain();
      options.damping_kind = kind;
      options.relative_damping = relative;
      const at::Tensor by_kfac = dense_step(risk, damped(kfac(risk), damping));
      BOOST_TEST(close(first_step(risk, options), by_kfac, {1e-8}));
    }
  }
  const EmpiricalRisk first = regression(two_layers(false)), second = regression(two_layers(false));
  NaturalGradientOptions options = plain();
  options.curvature = FisherApproximation::kEkfac;
  const at::Tensor by_ekfac = dense_step(first, shifted(ekfac(first), 0.1));
  BOOST_TEST(close(first_step(first, options), by_ekfac, {1e-8}));
  options.curvature = FisherApproximation::kKfoc;
  const at::Tensor by_kfoc = dense_step(second, shifted(kfoc(second), 0.1));
  BOOST_TEST(close(first_step(second, options), by_kfoc, {1e-7}));
}

BOOST_AUTO_TEST_CASE(weight_decay_adds_to_the_damping) {
  const EmpiricalRisk risk = regression(two_layers(false), {.weight_decay = 0.3});
  const at::Tensor expected = dense_step(risk, damped(kfac(risk), {.damping = 0.4}));
  BOOST_TEST(close(first_step(risk, plain()), expected, {1e-8}));
}

BOOST_AUTO_TEST_CASE(options_of_the_layers_reach_them) {
  const auto step = [](auto change) {
    NaturalGradientOptions options = plain();
    change(options);
    return first_step(regression(two_layers(false)), options);
  };
  const at::Tensor usual = step([](NaturalGradientOptions&) {});
  const auto differs = [&](auto change) { return !at::allclose(step(change), usual); };
  BOOST_TEST(differs([](auto& options) { options.fisher = Fisher::kEmpirical; }));
  BOOST_TEST(differs([](auto& options) { options.separate_bias = true; }));
  const auto sampled = [&](uint64_t seed, int64_t draws) {
    return step([&](auto& options) {
      options.fisher = Fisher::kMonteCarlo;
      options.random = RandomSource(seed);
      options.mc_samples = draws;
    });
  };
  BOOST_TEST(at::equal(sampled(1, 1), sampled(1, 1)));
  BOOST_TEST(!at::allclose(sampled(1, 1), sampled(2, 1)));
  BOOST_TEST((sampled(1, 3000) - usual).norm().item<double>() <
             0.2 * (sampled(1, 1) - usual).norm().item<double>());
}

BOOST_AUTO_TEST_CASE(steps_do_not_depend_on_how_inputs_are_scaled_or_mixed) {
  // Inputs x' = W x + b with weights that undo it: the same function, the same step in function
  // space (assertion A16); so for the hidden units of a linear layer.
  auto net = two_layers(false), other = two_layers(false);
  const at::Tensor x = numbers({9, 3}, 1), mix = numbers({3, 3}, 30) + 2 * at::eye(3, x.options()),
                   offset = numbers({3}, 31);
  const at::Tensor mixed = x.matmul(mix.t()) + offset;
  {
    const at::NoGradGuard no_grad;
    const at::Tensor weight = other->parameters()[0], bias = other->parameters()[1];
    weight.copy_(weight.matmul(mix.inverse()));
    bias.sub_(weight.mv(offset));
  }
  const at::Tensor targets = numbers({9, 2}, 2);
  const auto risk_of = [&](const torch::nn::Sequential& module, const at::Tensor& inputs) {
    return EmpiricalRisk(Model::from_module(module), mean_squared_error(),
                         tensor_dataset({inputs}, targets, 9));
  };
  BOOST_TEST(close(other->forward(mixed), net->forward(x).detach()));
  const at::Tensor before = net->forward(x).detach();
  first_step(risk_of(net, x), plain(0));
  first_step(risk_of(other, mixed), plain(0));
  BOOST_TEST(close(other->forward(mixed).detach(), net->forward(x).detach(), {1e-7}));
  BOOST_TEST(!at::allclose(net->forward(x).detach(), before, 1e-2));
}

BOOST_AUTO_TEST_CASE(statistics_decay_and_inverses_age) {
  // After the first three steps statistics are taken in every second and used from every fourth.
  const EmpiricalRisk risk = regression(two_layers(false));
  NaturalGradientOptions options = plain();
  options.decay = 0.5;
  options.statistics_interval = 2;
  options.refresh_interval = 4;
  const auto minimizer = natural_gradient(risk, options);
  KfacEstimator estimator(risk, {}, 0.5);
  OperatorPtr used;
  for (int64_t step = 0; step < 10; ++step) {
    if (step < 3 || step % 2 == 0) estimator.update(risk);
    if (step < 3 || step % 4 == 0) used = estimator.kfac();
    const at::Tensor expected = dense_step(risk, shifted(used, 0.1));
    BOOST_TEST(close(moved_by(*minimizer, risk), expected, {1e-7}));
  }
}

BOOST_AUTO_TEST_CASE(a_batch_under_sum_is_a_part_of_the_data) {
  // Sums over three of nine examples, damping times as much: the mean's step.
  const auto step = [](Reduction reduction, NaturalGradientOptions options) {
    const EmpiricalRisk risk = regression(two_layers(false), {.reduction = reduction});
    const auto minimizer = natural_gradient(risk, options);
    const Batch all = risk.data().batch(0);
    return moved_by(*minimizer, risk.with_data(tensor_dataset({all.inputs[0].narrow(0, 3, 3)},
                                                              all.targets.narrow(0, 3, 3), 3)));
  };
  for (const KroneckerDamping kind : {KroneckerDamping::kExact, KroneckerDamping::kHeuristicPi}) {
    NaturalGradientOptions mean = plain(0.1), sum = plain(0.1 * 6);  // of three times two numbers
    mean.damping_kind = sum.damping_kind = kind;
    BOOST_TEST(close(step(Reduction::kSum, sum), step(Reduction::kMean, mean), {1e-8}));
  }
}

BOOST_AUTO_TEST_CASE(momentum_adds_a_part_of_the_last_update) {
  const EmpiricalRisk risk = regression(two_layers(true));
  NaturalGradientOptions options = plain();
  options.momentum = 0.6;
  const auto minimizer = natural_gradient(risk, options);
  const at::Tensor first = moved_by(*minimizer, risk);
  KfacEstimator estimator(risk, {}, options.decay);
  // The first update was from other parameters: rebuild both from a copy of the first step.
  const EmpiricalRisk copy = regression(two_layers(true));
  estimator = KfacEstimator(copy, {}, options.decay);
  estimator.update(copy);
  BOOST_TEST(close(moved_by(*natural_gradient(copy, options), copy), first));
  estimator.update(copy);
  const at::Tensor expected = dense_step(copy, shifted(estimator.kfac(), 0.1)) + 0.6 * first;
  BOOST_TEST(close(moved_by(*minimizer, risk), expected, {1e-8}));
}

BOOST_AUTO_TEST_CASE(the_norm_constraint_and_the_trust_region_limit_the_step) {
  for (const double limit : {1e-4, 1e3}) {
    const EmpiricalRisk risk = one_layer(), region = one_layer();
    const at::Tensor whole = first_step(one_layer(), plain());
    const at::Tensor g = gradient_of(risk), curvature = materialize(*ggn(risk));
    NaturalGradientOptions options = plain();
    options.step_size = StepSize::kNormConstraint;
    options.norm_constraint = limit;
    const double nu = std::min(1.0, std::sqrt(limit / -whole.dot(g).item<double>()));
    StepReport report;
    BOOST_TEST(
        close(moved_by(*natural_gradient(risk, options), risk, &report), nu * whole, {1e-8}));
    BOOST_TEST(report.learning_rate == nu, boost::test_tools::tolerance(1e-8));
    options.step_size = StepSize::kTrustRegion;
    options.trust_radius = limit;
    const at::Tensor step = first_step(region, options);
    const double divergence = step.dot(curvature.mv(step)).item<double>() / 2;
    if (limit < 1) {
      BOOST_TEST(divergence == limit, boost::test_tools::tolerance(1e-8));
    } else {
      BOOST_TEST(close(step, whole, {1e-8}));
    }
  }
}

BOOST_AUTO_TEST_CASE(the_quadratic_model_chooses_step_and_momentum) {
  const double weight_decay = 0.02, damping = 0.05;
  const EmpiricalRisk risk = regression(two_layers(false), {.weight_decay = weight_decay});
  NaturalGradientOptions options = plain(damping);
  options.step_size = StepSize::kQuadraticModel;
  const auto minimizer = natural_gradient(risk, options);
  at::Tensor last = at::zeros_like(parameters_of(risk));
  for (int step = 0; step < 3; ++step) {
    const at::Tensor curvature = materialize(*ggn(risk)), g = gradient_of(risk);
    const at::Tensor delta = moved_by(*minimizer, risk);
    // At the minimum over span{D, d0} the model's gradient is orthogonal to the update and to d0.
    const at::Tensor model_gradient = curvature.mv(delta) + damping * delta + g;
    const double scale = g.norm().item<double>();
    BOOST_TEST(std::abs(model_gradient.dot(delta).item<double>()) <
               1e-10 * scale * delta.norm().item<double>());
    BOOST_TEST(std::abs(model_gradient.dot(last).item<double>()) <=
               1e-10 * scale * last.norm().item<double>());
    last = delta;
  }
}

BOOST_AUTO_TEST_CASE(with_the_exact_curvature_the_model_takes_the_whole_step) {
  // One layer and squared error: K-FAC is the GGN, so alpha = 1 and mu = 0 (assertion A18).
  const EmpiricalRisk risk = one_layer();
  NaturalGradientOptions options = plain(0.5);
  options.step_size = StepSize::kQuadraticModel;
  const auto minimizer = natural_gradient(risk, options);
  for (int step = 0; step < 3; ++step) {
    const at::Tensor expected = dense_step(risk, shifted(ggn(risk), 0.5));
    StepReport report;
    BOOST_TEST(close(moved_by(*minimizer, risk, &report), expected, {1e-7}));
    BOOST_TEST(report.learning_rate == 1, boost::test_tools::tolerance(1e-7));
  }
}

BOOST_AUTO_TEST_CASE(damping_follows_rho) {
  // On a quadratic rho is 1: damping falls by the factor in every second step.
  const EmpiricalRisk risk = one_layer({.weight_decay = 0.01});
  NaturalGradientOptions options = plain(2);
  options.damping_rule = DampingRule::kLevenbergMarquardt;
  options.damping_interval = 2;
  options.damping_factor = 1.5;
  for (const StepSize step_size : {StepSize::kFixed, StepSize::kQuadraticModel}) {
    options.step_size = step_size;
    const auto minimizer = natural_gradient(risk, options);
    for (const double expected : {2.0, 2.0, 2 / 1.5, 2 / 1.5, 2 / 2.25}) {
      BOOST_TEST(*minimizer->step(risk).damping == expected, boost::test_tools::tolerance(1e-12));
    }
  }
  // Five times too long: the loss rises against the model, damping too.
  options.step_size = StepSize::kFixed;
  options.learning_rate = 5;
  options.damping = 0.01;
  options.damping_interval = 1;
  const EmpiricalRisk other = one_layer();
  const auto eager = natural_gradient(other, options);
  eager->step(other);
  BOOST_TEST(*eager->step(other).damping == 0.01 * 1.5, boost::test_tools::tolerance(1e-12));
}

BOOST_AUTO_TEST_CASE(a_step_that_raises_the_loss_can_be_rejected) {
  const EmpiricalRisk risk = one_layer();
  NaturalGradientOptions options = plain(0.01);
  options.learning_rate = 5;
  options.reject_increase = true;
  const auto minimizer = natural_gradient(risk, options);
  const auto versions = risk.versions();
  const at::Tensor before = parameters_of(risk);
  BOOST_TEST(!minimizer->step(risk).accepted);
  BOOST_TEST(at::equal(parameters_of(risk), before));
  BOOST_TEST(risk.versions() == versions);
  minimizer->set_learning_rate(1);
  BOOST_TEST(minimizer->step(risk).accepted);
  options.reject_increase = false;
  BOOST_TEST(natural_gradient(risk, options)->step(risk).accepted);
}

BOOST_AUTO_TEST_CASE(the_damping_of_the_factors_is_searched) {
  const auto objective = [](int64_t interval, double* factor_damping) {
    const EmpiricalRisk risk = regression(two_layers(false));
    NaturalGradientOptions options = plain(0.05);
    options.step_size = StepSize::kQuadraticModel;
    options.damping_kind = KroneckerDamping::kHeuristicPi;
    options.factor_damping_interval = interval;
    const at::Tensor m = materialize(*ggn(risk)), g = gradient_of(risk);
    const auto minimizer = natural_gradient(risk, options);
    const at::Tensor delta = moved_by(*minimizer, risk);
    *factor_damping = minimizer->save().tensors.at("factor_damping").item<double>();
    return (g.dot(delta) + 0.5 * delta.dot(m.mv(delta) + 0.05 * delta)).item<double>();
  };
  double fixed = 0, searched = 0;
  const double without = objective(0, &fixed), with = objective(20, &searched);
  BOOST_TEST(fixed == 0.05);
  const double ratio = std::pow(19.0 / 20, 20);
  BOOST_TEST((std::abs(searched / (0.05 * ratio) - 1) < 1e-12 ||
              std::abs(searched / (0.05 / ratio) - 1) < 1e-12));
  BOOST_TEST(with < without);
}

BOOST_AUTO_TEST_CASE(parameters_without_a_rule_follow_the_fallback) {
  const auto options = numbers({1}, 1).options();
  const at::Tensor weight = numbers({3, 2}, 5).requires_grad_();
  const at::Tensor power = at::full({2}, 1.5, options).requires_grad_();
  const EmpiricalRisk risk(
      Model([=](const TensorList& x) { return (x[0].matmul(weight).square() + 1).pow(power); },
            {{"weight", weight}, {"power", power}}),
      mean_squared_error(), tensor_dataset({numbers({9, 3}, 1)}, numbers({9, 2}, 2), 9));
  BOOST_CHECK_THROW(natural_gradient(risk, plain())->step(risk), NotSupportedError);
  NaturalGradientOptions with_fallback = plain();
  with_fallback.fallback = Fallback::kBlock;
  const at::Tensor expected =
      dense_step(risk, damped(kfac(risk, {.fallback = Fallback::kBlock}), {.damping = 0.1}));
  BOOST_TEST(close(first_step(risk, with_fallback), expected, {1e-8}));
}

BOOST_AUTO_TEST_CASE(the_state_of_groups_and_embeddings_is_counted) {
  const auto bytes = [](torch::nn::Sequential net, const at::Tensor& inputs,
                        FisherApproximation curvature) {
    net->push_back(torch::nn::Flatten());
    const at::Tensor targets = seeded(net, 3)->forward(inputs).detach();
    const EmpiricalRisk risk(Model::from_module(net), mean_squared_error(),
                             tensor_dataset({inputs}, targets, inputs.size(0)));
    return natural_gradient(risk, {.curvature = curvature})->state_bytes();
  };
  const auto embedding = [&](FisherApproximation curvature) {
    return bytes(torch::nn::Sequential(torch::nn::Embedding(50, 3)),
                 at::arange(6, at::TensorOptions().device(test_device())).view({3, 2}), curvature);
  };
  // Two sets of factors (3 x 3, and 50 on a diagonal), eigenvectors, eigenvalues, last update.
  BOOST_TEST(embedding(FisherApproximation::kKfac) == 8 * (2 * (9 + 50) + 9 + 150 + 150));
  BOOST_TEST(embedding(FisherApproximation::kEkfac) == 8 * (9 + 50 + 9 + 2 * 150 + 150));
  const auto convolution = [&](FisherApproximation curvature) {
    const auto options = torch::nn::Conv2dOptions(2, 4, 2).groups(2);
    return bytes(torch::nn::Sequential(torch::nn::Conv2d(options)), numbers({3, 2, 3, 3}, 1),
                 curvature);
  };
  // Two groups, each with factors 2 x 2 and 5 x 5.
  BOOST_TEST(convolution(FisherApproximation::kKfac) == 8 * (2 * 3 * (4 + 25) + 20));
  BOOST_TEST(convolution(FisherApproximation::kEkfac) == 8 * (2 * (2 * (4 + 25) + 2 * 10) + 20));
  BOOST_TEST(convolution(FisherApproximation::kKfoc) == 8 * (2 * 2 * (4 + 25) + 20));
}

BOOST_AUTO_TEST_CASE(wrong_options_are_refused) {
  const EmpiricalRisk risk = one_layer();
  const auto refused = [&](auto change) {
    NaturalGradientOptions options = plain();
    change(options);
    BOOST_CHECK_THROW(natural_gradient(risk, options), OptionError);
  };
  refused([](auto& options) { options.learning_rate = -1; });
  refused([](auto& options) { options.momentum = 1; });
  refused([](auto& options) { options.damping = -1; });
  refused([](auto& options) { options.decay = 0; });
  refused([](auto& options) { options.mc_samples = 0; });
  refused([](auto& options) { options.statistics_interval = 0; });
  refused([](auto& options) { options.refresh_interval = 0; });
  refused([](auto& options) { options.damping_interval = 0; });
  refused([](auto& options) { options.norm_constraint = 0; });
  refused([](auto& options) { options.trust_radius = 0; });
  refused([](auto& options) { options.factor_damping_interval = 5; });
  for (const double fraction : {0.0, -0.5, 1.01, std::nan("")}) {
    refused([&](auto& options) { options.statistics_fraction = fraction; });
    refused([&](auto& options) {
      options.step_size = StepSize::kQuadraticModel;
      options.model_fraction = fraction;
    });
  }
  refused([](auto& options) { options.model_fraction = 0.5; });  // nothing looks at the model
  refused([](auto& options) { options.damping_rule = DampingRule::kGradientNormalized; });
  refused([](auto& options) {
    options.relative_damping = true;
    options.damping_rule = DampingRule::kNielsen;
  });
  refused([](auto& options) {
    options.curvature = FisherApproximation::kEkfac;
    options.fisher = Fisher::kForwardOnly;
  });
  refused([](auto& options) {
    options.curvature = FisherApproximation::kFull;
    options.fisher = Fisher::kForwardOnly;
  });
  refused([](auto& options) {
    options.curvature = FisherApproximation::kFull;
    options.mc_samples = 0;
  });
}

BOOST_AUTO_TEST_SUITE_END()
