// SINGD in single precision and in bfloat16.
#include <curvature/matrix_free/ggn.hpp>

#include "optim/singd.hpp"

BOOST_AUTO_TEST_SUITE(singd_low_precision_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(single_precision_follows_double_precision) {
  const auto run = [](at::ScalarType dtype) {
    auto net = two_layers(false);
    net->to(dtype);
    const EmpiricalRisk risk(
        Model::from_module(net), mean_squared_error(),
        tensor_dataset({numbers({9, 3}, 1).to(dtype)}, numbers({9, 2}, 2).to(dtype), 9));
    const auto minimizer = singd(risk, {.learning_rate = 0.05, .refresh_interval = 2});
    for (int step = 0; step < 12; ++step) minimizer->step(risk);
    return parameters_of(risk).to(at::kDouble);
  };
  BOOST_TEST(close(run(at::kFloat), run(at::kDouble), {1e-5}));
}

BOOST_AUTO_TEST_CASE(bfloat16_trains_where_it_breaks_kfac) {
  // Least squares with inputs of condition 1e6: A has entries of all sizes, so that rounding it to
  // bfloat16 moves its small eigenvalues below zero.
  const at::Tensor mix = std::get<0>(at::linalg_qr(numbers({8, 8}, 3)));
  const at::Tensor sizes = at::logspace(0, -3, 8, 10, mix.options());
  const at::Tensor inputs = (3 * numbers({64, 8}, 1) * sizes).mm(mix);
  const at::Tensor targets = inputs.mm(mix.t() / sizes).mm(numbers({8, 2}, 2));
  const auto problem = [&] {
    auto net = seeded(
        torch::nn::Sequential(torch::nn::Linear(torch::nn::LinearOptions(8, 2).bias(false))), 5);
    net->to(at::kFloat);
    return EmpiricalRisk(Model::from_module(net), mean_squared_error(),
                         tensor_dataset({inputs.to(at::kFloat)}, targets.to(at::kFloat), 64));
  };
  const double damping = 1e-6;

  // K-FAC, its damped factor stored in bfloat16 and then inverted in double precision.
  const auto kfac_loss = [&](bool rounded) {
    const EmpiricalRisk risk = problem();
    const auto [a, b] = kfac_factors(kfac(risk), 0);
    at::Tensor damped_a = a.to(at::kDouble) + damping * at::eye(8, inputs.options());
    if (rounded) damped_a = damped_a.to(at::kBFloat16).to(at::kDouble);
    const bool breaks = std::get<1>(at::linalg_cholesky_ex(damped_a)).item<int64_t>() != 0;
    BOOST_TEST(breaks == rounded);
    const at::Tensor inverse = damped_a.inverse().to(at::kFloat), inverse_b = b.inverse();
    for (int step = 0; step < 200; ++step) {
      const at::NoGradGuard no_grad;
      at::Tensor w = risk.parameters().front();
      w.sub_(0.1 * inverse_b.mm(risk.gradient().front()).mm(inverse));
    }
    return risk.loss();
  };
  const auto singd_loss = [&](std::optional<at::ScalarType> dtype) {
    const EmpiricalRisk risk = problem();
    const auto minimizer = singd(risk, {.learning_rate = 0.1,
                                        .momentum = 0.5,
                                        .damping = damping,
                                        .preconditioner_rate = 0.1,
                                        .refresh_interval = 1,
                                        .dtype = dtype,
                                        .fisher = Fisher::kType2});
    for (int step = 0; step < 400; ++step) minimizer->step(risk);
    return risk.loss();
  };
  const auto gradient_descent_loss = [&] {
    const EmpiricalRisk risk = problem();
    const at::Tensor curvature = materialize(*ggn(risk)).to(at::kDouble);
    const double rate = 1 / at::linalg_eigvalsh(curvature).max().item<double>();
    for (int step = 0; step < 400; ++step) {
      const at::NoGradGuard no_grad;
      at::Tensor w = risk.parameters().front();
      w.sub_(rate * risk.gradient().front());
    }
    return risk.loss();
  };
  const double start = problem().loss();
  BOOST_TEST(gradient_descent_loss() > 0.1 * start);
  BOOST_TEST(kfac_loss(false) < 1e-8 * start);
  BOOST_TEST(kfac_loss(true) > start);
  BOOST_TEST(singd_loss(std::nullopt) < 1e-8 * start);
  BOOST_TEST(singd_loss(at::kBFloat16) < 1e-8 * start);
}

BOOST_AUTO_TEST_CASE(small_steps_are_not_lost_in_bfloat16) {
  // A rate of 0.003 moves entries of K by less than half of their distance to the next number.
  // Rounded to the nearest, most would never move, and the step below would be wrong by 60 %.
  const auto step_in = [](at::ScalarType dtype, FactorStructure kind) {
    const EmpiricalRisk risk = regression(two_layers(false));
    SingdOptions options = eager(0.1);
    options.preconditioner_rate = 0.003;
    options.input_structure = options.output_structure = small(kind);
    options.dtype = dtype;
    return step_after(1000, risk, options);
  };
  for (const FactorStructure kind : {FactorStructure::kDense, FactorStructure::kHierarchical}) {
    BOOST_TEST(close(step_in(at::kBFloat16, kind), step_in(at::kDouble, kind), {0.05}));
  }
}

BOOST_AUTO_TEST_SUITE_END()
