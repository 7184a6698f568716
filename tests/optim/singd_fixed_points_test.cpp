// The inverses that SINGD learns.
#include <curvature/core/error.hpp>
#include <curvature/layerwise/damping.hpp>

#include "optim/singd.hpp"

BOOST_AUTO_TEST_SUITE(singd_fixed_points_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(ingd_finds_the_damped_flip_flop) {
  // A* = [tr(B*^-1 B) A + damping tr(B*^-1) I] / m and the other way round, iterated on its own.
  const EmpiricalRisk risk = regression(two_layers(false));
  const OperatorPtr layers = kfac(risk, {.fisher = Fisher::kType2});
  SingdOptions options = eager(0.05, Fisher::kType2);
  options.learning_rate = 0;
  options.refresh_interval = 1;
  const auto minimizer = singd(risk, options);
  for (int step = 0; step < 300; ++step) minimizer->step(risk);
  size_t block = 0;
  for (const std::string layer : {"0.weight", "2.weight"}) {
    const auto [a, b] = kfac_factors(layers, block++);
    at::Tensor p = eye_like(a), q = eye_like(b);  // inverses of A* and B*
    for (int iteration = 0; iteration < 300; ++iteration) {
      p = (mean_eigenvalue(q.mm(b)) * a + 0.05 * mean_eigenvalue(q) * eye_like(a)).inverse();
      q = (mean_eigenvalue(p.mm(a)) * b + 0.05 * mean_eigenvalue(p) * eye_like(b)).inverse();
    }
    const at::Tensor learned = at::kron(outer(factor(*minimizer, layer + "/output_0")),
                                        outer(factor(*minimizer, layer + "/input_0")));
    BOOST_TEST(close(learned, at::kron(q, p), {1e-10}));
  }
}

BOOST_AUTO_TEST_CASE(every_layer_that_kfac_knows_has_inverse_factors) {
  // Once learned, a step is the one of the nearest Kronecker products: of kfac, with that damping.
  const auto check = [](const EmpiricalRisk& risk, SingdOptions options, int steps = 150) {
    const KfacOptions layers{.fisher = options.fisher,
                             .weight_sharing = options.weight_sharing,
                             .separate_bias = options.separate_bias,
                             .random = options.random};
    const OperatorPtr expected =
        damped(kfac(risk, layers),
               {.damping = options.damping, .kind = KroneckerDamping::kKullbackLeibler});
    BOOST_TEST(close(step_after(steps, risk, options), step_by(risk, expected), {1e-7}));
  };
  const auto risk_of = [](torch::nn::Sequential net, at::IntArrayRef shape) {
    net->push_back(torch::nn::Flatten());
    const at::Tensor inputs = numbers(shape, 1);
    const at::Tensor outputs = seeded(net, 3)->forward(inputs);
    return EmpiricalRisk(Model::from_module(net), mean_squared_error(),
                         tensor_dataset({inputs}, numbers(outputs.sizes(), 2), shape[0]));
  };
  using torch::nn::Conv2dOptions;
  for (const WeightSharing sharing : {WeightSharing::kExpand, WeightSharing::kReduce}) {
    for (const Fisher fisher : {Fisher::kEmpirical, Fisher::kForwardOnly}) {
      SingdOptions options = eager(0.1, fisher);
      options.weight_sharing = sharing;
      for (const bool separate_bias : {false, true}) {
        options.separate_bias = separate_bias;
        check(risk_of(torch::nn::Sequential(torch::nn::Conv2d(Conv2dOptions(2, 4, 2).groups(2)),
                                            torch::nn::Tanh(), torch::nn::ConvTranspose2d(4, 2, 2)),
                      {5, 2, 3, 3}),
              options);
      }
      check(risk_of(torch::nn::Sequential(torch::nn::Linear(3, 2),
                                          torch::nn::LayerNorm(std::vector<int64_t>{2})),
                    {5, 4, 3}),
            options);
    }
  }
}

BOOST_AUTO_TEST_CASE(one_hot_inputs_have_a_diagonal_factor) {
  // Without damping the nearest Kronecker product is K-FAC itself.
  const torch::nn::Sequential net(torch::nn::Embedding(4, 3), torch::nn::Flatten());
  const at::Tensor tokens = at::tensor({0, 1, 2, 3, 3, 1, 2, 2, 0, 3, 1, 1, 0, 2}).view({7, 2});
  const EmpiricalRisk risk(Model::from_module(seeded(net, 3)), mean_squared_error(),
                           tensor_dataset({tokens.to(test_device())}, numbers({7, 6}, 2), 7));
  const OperatorPtr curvature = kfac(risk, {.fisher = Fisher::kEmpirical});
  const SingdOptions options = eager(0);
  BOOST_TEST(close(step_after(200, risk, options), step_by(risk, curvature), {1e-7}));
  const auto minimizer = singd(risk, options);
  minimizer->step(risk);
  BOOST_TEST(factor(*minimizer, "0.weight/input_0").sizes() == at::IntArrayRef({4}));
  BOOST_TEST(factor(*minimizer, "0.weight/output_0").sizes() == at::IntArrayRef({3, 3}));
}

BOOST_AUTO_TEST_CASE(ikfac_damps_each_factor) {
  const EmpiricalRisk risk = regression(two_layers(false));
  SingdOptions options = eager(0.1);
  options.kfac_like = true;
  // `kPerFactor` adds the root.
  const OperatorPtr expected = damped(kfac(risk, {.fisher = Fisher::kEmpirical}),
                                      {.damping = 0.01, .kind = KroneckerDamping::kPerFactor});
  BOOST_TEST(close(step_after(150, risk, options), step_by(risk, expected), {1e-8}));
}

BOOST_AUTO_TEST_CASE(parameters_without_a_rule_follow_the_fallback) {
  const at::Tensor weight = numbers({3, 2}, 5).requires_grad_();
  const at::Tensor power = at::full({2}, 1.5, weight.options()).detach().requires_grad_();
  const EmpiricalRisk risk(
      Model([=](const TensorList& x) { return (x[0].matmul(weight).square() + 1).pow(power); },
            {{"weight", weight}, {"power", power}}),
      mean_squared_error(), tensor_dataset({numbers({9, 3}, 1)}, numbers({9, 2}, 2), 9),
      {.weight_decay = 0.2});
  SingdOptions options = eager(0.1);
  BOOST_CHECK_THROW(singd(risk, options)->step(risk), NotSupportedError);
  for (const Fallback fallback : {Fallback::kDiagonal, Fallback::kBlock}) {
    options.fallback = fallback;
    // Weight decay is in gradient and damping.
    const OperatorPtr expected =
        damped(kfac(risk, {.fisher = Fisher::kEmpirical, .fallback = fallback}),
               {.damping = 0.1 + 0.2, .kind = KroneckerDamping::kKullbackLeibler});
    const at::Tensor before = parameters_of(risk), step = step_by(risk, expected);
    BOOST_TEST(close(step_after(150, risk, options), step, {1e-8}));
    const at::NoGradGuard no_grad;
    at::Tensor(weight).copy_(before.narrow(0, 0, 6).view({3, 2}));
    at::Tensor(power).copy_(before.narrow(0, 6, 2));
  }
}

BOOST_AUTO_TEST_SUITE_END()
