// Adam's estimator beyond Adam: without the root, with a start of its own.
#include <curvature/core/error.hpp>
#include <curvature/optim/diagonal_estimator.hpp>

#include "optim/reference.hpp"

BOOST_AUTO_TEST_SUITE(diagonal_estimator_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

const std::vector<int64_t> kShape = {4, 3};

/// `options` with everything treated alike.
PreconditionedOptions for_all(PreconditionedOptions options) {
  options.view.vectors = VectorPolicy::kFull;
  return options;
}

}  // namespace

BOOST_AUTO_TEST_CASE(root_free_adamw) {
  constexpr double kRate = 0.01, kDecay = 0.1, kBatch = 16, kBeta = 0.99, kEpsilon = 1e-5;
  Replay replay(normal(kShape, 1), adam_estimator(root_free_adam_options(16)),
                for_all({.learning_rate = kRate,
                         .momentum = {.beta = 0.9, .bias_correction = false},
                         .weight_decay = {.decay = kDecay}}));
  at::Tensor theta = normal(kShape, 1), m = torch::zeros_like(theta);
  at::Tensor v = torch::full_like(theta, 1 / kBatch);
  for (const at::Tensor& g : some_gradients(kShape, 12)) {
    v = kBeta * v + (1 - kBeta) * g.square();
    m = 0.9 * m + 0.1 * g;
    theta = (1 - kRate * kDecay) * theta - kRate * m / (kBatch * v + kEpsilon);
    BOOST_TEST(close(replay.step(g), theta, {1e-12, 0}));
  }
}

BOOST_AUTO_TEST_CASE(root_free_rmsprop) {
  constexpr double kRate = 0.01, kDecay = 0.1, kBatch = 8, kBeta = 0.99, kEpsilon = 1e-5;
  Replay replay(normal(kShape, 1), adam_estimator(root_free_adam_options(8)),
                for_all({.learning_rate = kRate,
                         .momentum = {.beta = 0.9,
                                      .averaging = Averaging::kHeavyBall,
                                      .place = MomentumPlace::kAfter},
                         .weight_decay = {.decay = kDecay, .kind = WeightDecay::kDirection}}));
  at::Tensor theta = normal(kShape, 1), m = torch::zeros_like(theta);
  at::Tensor s = torch::full_like(theta, 1 / kBatch);
  for (const at::Tensor& g : some_gradients(kShape, 12)) {
    s = (1 - (1 - kBeta)) * s + (1 - kBeta) * g.square();
    m = 0.9 * m + g / (kBatch * s + kEpsilon) + kDecay * theta;
    theta = theta - kRate * m;
    BOOST_TEST(close(replay.step(g), theta, {1e-12, 0}));
  }
}

BOOST_AUTO_TEST_CASE(steps_without_a_root_shrink_as_the_loss_grows) {
  // Gradients c g and a start of c^2 v: directions with a root stay, those without are 1/c.
  constexpr double kScale = 100;
  const auto moved = [&](double exponent, double scale) {
    Replay replay(torch::zeros(kShape, double_options()),
                  adam_estimator({.epsilon = 0,
                                  .exponent = exponent,
                                  .bias_correction = false,
                                  .initial_value = 0.1 * scale * scale}),
                  {});
    at::Tensor theta;
    for (const at::Tensor& g : some_gradients(kShape, 6)) theta = replay.step(scale * g);
    return theta;
  };
  BOOST_TEST(close(moved(0.5, kScale), moved(0.5, 1), {1e-12, 0}));
  BOOST_TEST(close(moved(1, kScale), moved(1, 1) / kScale, {1e-12, 0}));
}

BOOST_AUTO_TEST_CASE(a_batch_scales_the_second_moment) {
  Replay replay(normal(kShape, 1), adam_estimator({.batch_size = 4}), {});
  Replay plain(normal(kShape, 1), adam_estimator(), {});
  for (const at::Tensor& g : some_gradients(kShape, 3)) replay.step(g), plain.step(g);
  BOOST_TEST(close(materialize(*replay.optimizer.snapshot("w").front()),
                   4 * materialize(*plain.optimizer.snapshot("w").front()), {1e-12, 0}));
}

BOOST_AUTO_TEST_CASE(state_resumes_bit_for_bit) {
  BOOST_TEST(resumes(normal(kShape, 7), adam_estimator(root_free_adam_options(4)), {},
                     some_gradients(kShape, 9), 5));
}

BOOST_AUTO_TEST_CASE(wrong_options_are_named) {
  BOOST_CHECK_THROW(adam_estimator({.initial_value = 1}), OptionError);
  BOOST_CHECK_THROW(adam_estimator({.bias_correction = false, .initial_value = -1}), OptionError);
  BOOST_CHECK_THROW(adam_estimator({.batch_size = 0}), OptionError);
  BOOST_CHECK_THROW(root_free_adam_options(0), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
