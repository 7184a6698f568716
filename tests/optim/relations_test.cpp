// How methods relate to one another and to symmetries of the problem.

#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/muon_estimator.hpp>
#include <curvature/optim/shampoo_estimator.hpp>
#include <curvature/optim/soap_estimator.hpp>

#include "optim/reference.hpp"
#include "support/tensor_close.hpp"

namespace curvature::testing {

BOOST_AUTO_TEST_SUITE(relations_test)

namespace {

using namespace optim;

const Shape kShape = {5, 3};
constexpr int64_t kSteps = 15, kNever = 1000;

PreconditionedOptions shell(double rate = 0.01) { return {.learning_rate = rate}; }

at::Tensor path(const EstimatorFactory& estimator, const PreconditionedOptions& options = shell(),
                double scale = 1) {
  std::vector<at::Tensor> gradients = random_gradients(kShape, kSteps);
  for (at::Tensor& gradient : gradients) gradient = gradient * scale;
  return trajectory(estimator, options, random_parameter(kShape), gradients);
}

/// The direction of the first step, without momentum.
at::Tensor first_direction(const EstimatorFactory& estimator, const at::Tensor& gradient) {
  PreconditionedOptions options = shell(1);
  options.momentum.beta = 0;
  return -trajectory(estimator, options, at::zeros_like(gradient), {gradient})[0];
}

at::Tensor polar(const at::Tensor& x) {
  const auto [u, s, vh] = at::linalg_svd(x, /*full_matrices=*/false);
  return u.matmul(vh);
}

at::Tensor random_rotation(int64_t n, uint64_t stream) {
  return std::get<0>(at::linalg_qr(RandomSource(3).normal(stream, n * n).view({n, n})));
}

/// Steps in rotated coordinates, rotated back.
at::Tensor rotated_path(const EstimatorFactory& estimator, const at::Tensor& u,
                        const at::Tensor& v) {
  std::vector<at::Tensor> gradients = random_gradients(kShape, kSteps);
  for (at::Tensor& gradient : gradients) gradient = u.matmul(gradient).matmul(v.t());
  const at::Tensor start = u.matmul(random_parameter(kShape)).matmul(v.t());
  return u.t().matmul(trajectory(estimator, shell(), start, gradients)).matmul(v);
}

KlShampooEstimatorOptions scale_free(KlShampooEstimatorOptions options) {
  options.epsilon = 0;
  return options;
}

}  // namespace

BOOST_AUTO_TEST_CASE(before_the_first_refresh_methods_are_adamw) {
  const at::Tensor adam = path(adam_estimator());
  PreconditionedOptions grafted = shell();
  grafted.graft = {.kind = Graft::kAdam, .start = kNever};
  SoapEstimatorOptions eshampoo = eshampoo_options();
  eshampoo.refresh.start = kNever;

  BOOST_TEST(close(path(soap_estimator({.refresh = {.start = kNever}})), adam));
  BOOST_TEST(close(path(eshampoo_estimator(eshampoo)), adam));
  BOOST_TEST(close(path(shampoo_estimator({.refresh = {.start = kNever}}), grafted), adam));
}

BOOST_AUTO_TEST_CASE(modes_without_matrices_make_soap_adamw) {
  PreconditionedOptions options = shell();
  options.view.max_dense = 0;
  options.view.beyond = ModeKind::kIdentity;
  BOOST_TEST(close(path(soap_estimator(), options), path(adam_estimator())));
}

BOOST_AUTO_TEST_CASE(shampoo_to_the_power_0_is_gradient_descent) {
  BOOST_TEST(close(path(shampoo_estimator({.exponent = 0})), path(identity_estimator())));
}

BOOST_AUTO_TEST_CASE(kl_shampoo_knows_no_scale) {
  for (const KlShampooEstimatorOptions& options :
       {scale_free({}), scale_free(exact_kl_shampoo_options())}) {
    const EstimatorFactory estimator = kl_shampoo_estimator(options);
    const at::Tensor plain = path(estimator);
    BOOST_TEST(close(path(estimator, shell(), 1000), plain, {.relative = 1e-9}));
    KlShampooEstimatorOptions unbalanced = options;
    unbalanced.balance = false;
    BOOST_TEST(close(path(kl_shampoo_estimator(unbalanced)), plain, {.relative = 1e-9}));
    // Whoever starts with a constant does.
    KlShampooEstimatorOptions constant = options;
    constant.initial_eigenvalue = 0.1;
    constant.debias = false;
    const EstimatorFactory other = kl_shampoo_estimator(constant);
    BOOST_TEST(!close(path(other, shell(), 1000), path(other), {.relative = 1e-3}));
  }
}

BOOST_AUTO_TEST_CASE(rotations_of_rows_and_columns_commute_with_shampoo_and_exact_kl_shampoo) {
  const at::Tensor u = random_rotation(5, 0), v = random_rotation(3, 1);
  const EstimatorFactory shampoo = shampoo_estimator({.factor_epsilon = 1e-6});
  const EstimatorFactory kl = kl_shampoo_estimator(exact_kl_shampoo_options());

  BOOST_TEST(close(rotated_path(shampoo, u, v), path(shampoo), {.relative = 1e-8}));
  BOOST_TEST(close(rotated_path(kl, u, v), path(kl), {.relative = 1e-8}));
  // Adam, and what begins in the basis I, do not.
  BOOST_TEST(
      !close(rotated_path(adam_estimator(), u, v), path(adam_estimator()), {.relative = 1e-4}));
  BOOST_TEST(
      !close(rotated_path(soap_estimator(), u, v), path(soap_estimator()), {.relative = 1e-4}));
}

BOOST_AUTO_TEST_CASE(the_first_step_of_kl_shampoo_has_root_mean_square_1) {
  const at::Tensor g = random_gradients(kShape, 1).front();
  const at::Tensor expected = g / g.square().mean().sqrt();
  for (const auto& options : {scale_free({}), scale_free(exact_kl_shampoo_options())}) {
    BOOST_TEST(close(first_direction(kl_shampoo_estimator(options), g), expected));
  }
}

/// Of one gradient alone: Shampoo with the powers -1/4 is spectral descent, which is Muon without
/// momentum. (Its factors have the rank of the gradient.)
BOOST_AUTO_TEST_CASE(shampoo_of_one_gradient_is_muon_without_momentum) {
  const at::Tensor g = random_gradients({4, 4}, 1).front();
  const at::Tensor shampoo = first_direction(
      shampoo_estimator({.beta2 = 0, .factor_epsilon = 0, .bias_correction = false}), g);
  const at::Tensor muon =
      first_direction(muon_estimator({.method = PolarMethod::kPolarExpress, .steps = 12}), g);

  BOOST_TEST(close(shampoo, polar(g), {.relative = 1e-8}));
  BOOST_TEST(close(muon, polar(g), {.relative = 1e-3}));
}

/// Shampoo is Muon adapted on both sides: A^-1/4 M B^-1/4 = [A^-1/4 (M M^T)^1/4] polar(M)
/// [(M^T M)^1/4 B^-1/4].
BOOST_AUTO_TEST_CASE(shampoo_is_adapted_muon) {
  at::Tensor w = at::zeros({4, 4}, at::kDouble).requires_grad_();
  PreconditionedOptions options = shell(0);
  Preconditioned optimizer({{"w", w}}, shampoo_estimator({.factor_epsilon = 0}), options);
  const std::vector<at::Tensor> gradients = random_gradients({4, 4}, 8);
  at::Tensor m = at::zeros({4, 4}, at::kDouble), a = m, b = m;
  for (size_t t = 0; t < gradients.size(); ++t) {
    if (t + 1 == gradients.size()) optimizer.set_learning_rate(1);
    w.mutable_grad() = gradients[t];
    optimizer.step();
    m = 0.9 * m + 0.1 * gradients[t];
    a = 0.95 * a + 0.05 * gradients[t].matmul(gradients[t].t());
    b = 0.95 * b + 0.05 * gradients[t].t().matmul(gradients[t]);
  }
  const auto steps = static_cast<double>(gradients.size());
  m = m / (1 - std::pow(0.9, steps));
  a = a / (1 - std::pow(0.95, steps));
  b = b / (1 - std::pow(0.95, steps));
  const at::Tensor left = symmetric_power(a, -0.25).matmul(symmetric_power(m.matmul(m.t()), 0.25));
  const at::Tensor right = symmetric_power(m.t().matmul(m), 0.25).matmul(symmetric_power(b, -0.25));

  BOOST_TEST(close(-w.detach(), left.matmul(polar(m)).matmul(right), {.relative = 1e-7}));
}

/// With a fixed pool in the place of the expectation, the averages stop where the divergence is
/// stationary: A = mean G B^-1 G^T / n and its mirror image. Rate 1/t makes averages of averages.
BOOST_AUTO_TEST_CASE(kl_shampoo_tracks_the_minimum_of_the_divergence) {
  const std::vector<at::Tensor> pool = random_gradients({3, 4}, 60);
  at::Tensor a = at::eye(3, at::kDouble), b = at::eye(4, at::kDouble);
  for (int i = 0; i < 200; ++i) {
    at::Tensor next_a = at::zeros_like(a), next_b = at::zeros_like(b);
    for (const at::Tensor& g : pool) {
      next_a += g.matmul(at::linalg_inv(b)).matmul(g.t()) / (4.0 * 60);
    }
    a = next_a;
    for (const at::Tensor& g : pool) {
      next_b += g.t().matmul(at::linalg_inv(a)).matmul(g) / (3.0 * 60);
    }
    b = next_b;
  }
  at::Tensor w = at::zeros({3, 4}, at::kDouble).requires_grad_();
  KlShampooEstimatorOptions options = exact_kl_shampoo_options();
  options.beta2 = 0.9999;
  Preconditioned optimizer({{"w", w}}, kl_shampoo_estimator(options), shell(0));
  for (int pass = 0; pass < 60; ++pass) {
    for (const at::Tensor& g : pool) {
      w.mutable_grad() = g;
      optimizer.step();
    }
  }
  const at::Tensor learned = optimizer.snapshot("w").front()->apply(at::eye(12, at::kDouble));
  BOOST_TEST(close(learned, at::kron(a, b), {.relative = 0.02}));
}

BOOST_AUTO_TEST_CASE(a_basis_is_renewed_only_where_it_has_become_wrong) {
  const auto adaptive = [](double tolerance) {
    return soap_estimator({.refresh = {.interval = 1, .start = 4, .tolerance = tolerance}});
  };
  const at::Tensor always = path(soap_estimator({.refresh = {.interval = 1, .start = 4}}));
  const at::Tensor once = path(soap_estimator({.refresh = {.interval = kNever, .start = 4}}));

  BOOST_TEST(close(path(adaptive(1)), once));
  BOOST_TEST(close(path(adaptive(1e-300)), always));
  BOOST_TEST(!close(path(adaptive(0.2)), once));
  BOOST_TEST(!close(path(adaptive(0.2)), always));
}

BOOST_AUTO_TEST_CASE(parameters_take_turns_in_being_renewed) {
  const RefreshOptions turns = {.interval = 4, .start = 2, .stagger = true};
  for (int64_t index = 0; index < 4; ++index) {
    std::vector<int64_t> due;
    for (int64_t t = 1; t <= 14; ++t) {
      if (refresh_is_due(turns, t, index)) due.push_back(t);
    }
    std::vector<int64_t> expected = {2};
    for (int64_t t = 6 - index; t <= 14; t += 4) {
      if (t > 2) expected.push_back(t);
    }
    BOOST_TEST(due == expected, boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace curvature::testing
