// The parts of the composed optimizer, each against its formula.

#include <sstream>

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <curvature/core/error.hpp>
#include <curvature/model/loss.hpp>
#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/preconditioned.hpp>
#include <curvature/optim/shampoo_estimator.hpp>
#include <curvature/optim/soap_estimator.hpp>
#include <curvature/optim/spiked_kl_shampoo_estimator.hpp>

#include "optim/reference.hpp"
#include "optim/tensor_view.hpp"
#include "support/tensor_close.hpp"

namespace curvature::testing {

BOOST_AUTO_TEST_SUITE(preconditioned_test)

namespace {

using namespace optim;

const Shape kShape = {4, 3};
constexpr int64_t kSteps = 8;
constexpr double kRate = 0.1;

struct Descent {
  at::Tensor start = random_parameter(kShape);
  std::vector<at::Tensor> gradients = random_gradients(kShape, kSteps);

  /// Gradient descent with the given options.
  at::Tensor operator()(const PreconditionedOptions& options) const {
    return trajectory(identity_estimator(), options, start, gradients);
  }
};

PreconditionedOptions plain() { return {.learning_rate = kRate, .momentum = {.beta = 0}}; }

double rms(const at::Tensor& x) { return x.square().mean().sqrt().item<double>(); }

/// Values of theta <- step(t, theta, g).
at::Tensor by_hand(const Descent& d,
                   const std::function<at::Tensor(int64_t, at::Tensor, at::Tensor)>& step) {
  at::Tensor theta = d.start;
  std::vector<at::Tensor> values;
  for (size_t t = 0; t < d.gradients.size(); ++t) {
    theta = step(static_cast<int64_t>(t) + 1, theta, d.gradients[t]);
    values.push_back(theta);
  }
  return at::stack(values);
}

}  // namespace

BOOST_AUTO_TEST_CASE(momentum_of_every_kind) {
  const Descent d;
  for (const MomentumPlace place : {MomentumPlace::kBefore, MomentumPlace::kAfter}) {
    for (const bool nesterov : {false, true}) {
      PreconditionedOptions options = plain();
      options.momentum = {.beta = 0.8, .nesterov = nesterov, .place = place};
      at::Tensor m = at::zeros(kShape, at::kDouble);
      const at::Tensor moving = by_hand(d, [&](int64_t t, at::Tensor theta, at::Tensor g) {
        m = 0.8 * m + 0.2 * g;
        return nesterov ? theta - kRate * (0.8 * m + 0.2 * g) / (1 - std::pow(0.8, t + 1))
                        : theta - kRate * m / (1 - std::pow(0.8, t));
      });
      BOOST_TEST(close(d(options), moving));

      options.momentum.averaging = optim::Averaging::kHeavyBall;
      m.zero_();
      const at::Tensor heavy = by_hand(d, [&](int64_t, at::Tensor theta, at::Tensor g) {
        m = 0.8 * m + g;
        return theta - kRate * (nesterov ? 0.8 * m + g : m);
      });
      BOOST_TEST(close(d(options), heavy));

      options.momentum.averaging = optim::Averaging::kRunningMean;
      m.zero_();
      const at::Tensor running = by_hand(d, [&](int64_t t, at::Tensor theta, at::Tensor g) {
        const double b = std::min(static_cast<double>(t - 1) / static_cast<double>(t), 0.8);
        m = b * m + (1 - b) * g;
        return theta - kRate * (nesterov ? b * m + (1 - b) * g : m);
      });
      BOOST_TEST(close(d(options), running));
    }
  }
}

BOOST_AUTO_TEST_CASE(weight_decay_of_every_kind) {
  const Descent d;
  const double w = 0.3;
  const auto with = [&](WeightDecay kind) {
    PreconditionedOptions options = plain();
    options.weight_decay = {.decay = w, .kind = kind};
    return d(options);
  };
  const auto hand = [&](const std::function<at::Tensor(at::Tensor, at::Tensor)>& step) {
    return by_hand(d, [&](int64_t, at::Tensor theta, at::Tensor g) { return step(theta, g); });
  };
  const auto before = hand([&](auto x, auto g) { return (1 - kRate * w) * x - kRate * g; });

  BOOST_TEST(close(with(WeightDecay::kDecoupled), before));
  BOOST_TEST(close(with(WeightDecay::kGradient), before));
  BOOST_TEST(close(with(WeightDecay::kDirection), before));
  BOOST_TEST(close(with(WeightDecay::kDecoupledAfter),
                   hand([&](auto x, auto g) { return (1 - kRate * w) * (x - kRate * g); })));
  BOOST_TEST(close(with(WeightDecay::kIndependent),
                   hand([&](auto x, auto g) { return (1 - w) * x - kRate * g; })));
}

BOOST_AUTO_TEST_CASE(bounds_of_every_kind) {
  const Descent d;
  const auto with = [&](const ClipOptions& clip) {
    PreconditionedOptions options = plain();
    options.clip = clip;
    return d(options);
  };
  const auto hand = [&](const std::function<at::Tensor(at::Tensor)>& bounded) {
    return by_hand(
        d, [&](int64_t, at::Tensor theta, at::Tensor g) { return theta - kRate * bounded(g); });
  };
  const auto to_norm = [](const at::Tensor& g, double bound) {
    return g * std::min(1.0, bound / g.norm().item<double>());
  };
  BOOST_TEST(close(with({.gradient_norm = 0.9}), hand([&](auto g) { return to_norm(g, 0.9); })));
  BOOST_TEST(close(with({.norm = 0.9}), hand([&](auto g) { return to_norm(g, 0.9); })));
  BOOST_TEST(
      close(with({.rms = 0.25}), hand([&](auto g) { return g * std::min(1.0, 0.25 / rms(g)); })));
  BOOST_TEST(close(with({.entry = 0.2}), hand([](auto g) { return g.clamp(-0.2, 0.2); })));
  BOOST_TEST(close(with({.kl = 5e-3}), hand([&](auto g) {
                     const double squared = g.square().sum().template item<double>();
                     return g * std::min(1.0, std::sqrt(5e-3 / (kRate * kRate * squared)));
                   })));
}

BOOST_AUTO_TEST_CASE(lengths_come_from_the_simpler_method) {
  const Descent d;
  const auto direction = [&](Graft kind) {
    PreconditionedOptions options = plain();
    options.learning_rate = 1;
    options.graft = {.kind = kind};
    const auto estimator = shampoo_estimator({.factor_epsilon = 1e-3});
    return d.start - trajectory(estimator, options, d.start, {d.gradients[0]})[0];
  };
  const at::Tensor g = d.gradients[0], free = direction(Graft::kNone);
  const auto check = [&](Graft kind, double length) {
    BOOST_TEST(close(direction(kind), free * (length / free.norm().item<double>())));
  };
  check(Graft::kSgd, g.norm().item<double>());
  check(Graft::kAdam, (g / (g.abs() + 1e-8)).norm().item<double>());
  check(Graft::kUnitRms, std::sqrt(12.0));
  check(Graft::kRmsProp, (g / ((0.05 * g * g).sqrt() + 1e-8)).norm().item<double>());
}

BOOST_AUTO_TEST_CASE(averages_go_in_and_out) {
  const Descent d;
  PreconditionedOptions options = plain();
  options.iterates = {.kind = Iterates::kAverage, .decay = 0.7};
  at::Tensor w = d.start.clone().requires_grad_();
  Preconditioned optimizer({{"w", w}}, identity_estimator(), options);
  at::Tensor average = at::zeros(kShape, at::kDouble);
  for (const at::Tensor& gradient : d.gradients) {
    w.mutable_grad() = gradient;
    optimizer.step();
    average = 0.7 * average + 0.3 * w.detach();
  }
  const at::Tensor last = w.detach().clone();
  optimizer.eval();
  optimizer.eval();
  BOOST_TEST(close(w.detach(), average / (1 - std::pow(0.7, kSteps))));
  BOOST_CHECK_THROW(optimizer.step(), OptionError);
  BOOST_TEST(close(w.detach(), average / (1 - std::pow(0.7, kSteps))));
  optimizer.train();
  optimizer.train();
  BOOST_TEST(at::equal(w.detach(), last));
}

/// x and z written out: y = (1 - beta) z + beta x, z <- z - rate g(y), x <- (1 - c) x + c z.
BOOST_AUTO_TEST_CASE(schedule_free_averages_replace_a_schedule) {
  const Descent d;
  const double beta = 0.9;
  PreconditionedOptions options = plain();
  options.weight_decay.decay = 0.1;
  options.iterates = {.kind = Iterates::kScheduleFree, .interpolation = beta};
  at::Tensor w = d.start.clone().requires_grad_();
  Preconditioned optimizer({{"w", w}}, identity_estimator(), options);
  at::Tensor x = d.start, z = d.start;
  double sum = 0;
  for (size_t t = 0; t < d.gradients.size(); ++t) {
    const double rate = kRate * static_cast<double>(t + 1);
    optimizer.set_learning_rate(rate);
    w.mutable_grad() = d.gradients[t];
    const at::Tensor y = (1 - beta) * z + beta * x;
    BOOST_TEST(close(w.detach(), y));
    optimizer.step();
    z = z - rate * (d.gradients[t] + 0.1 * y);
    sum += rate * rate;
    const double c = rate * rate / sum;
    x = (1 - c) * x + c * z;
  }
  optimizer.eval();
  BOOST_TEST(close(w.detach(), x));
}

BOOST_AUTO_TEST_CASE(blocks_are_parameters_of_their_own) {
  const Shape shape = {5, 4};
  const auto gradients = random_gradients(shape, kSteps);
  PreconditionedOptions options = plain();
  options.momentum.beta = 0.9;
  const auto estimator = soap_estimator({.refresh = {.interval = 2}});
  const at::Tensor start = random_parameter(shape);
  PreconditionedOptions cut = options;
  cut.view.block_size = 3;

  const at::Tensor whole = trajectory(estimator, cut, start, gradients);

  for (const auto& [rows, columns] : {std::pair{std::pair{0, 3}, std::pair{0, 3}},
                                      {{0, 3}, {3, 4}},
                                      {{3, 5}, {0, 3}},
                                      {{3, 5}, {3, 4}}}) {
    const auto part = [&, r = rows, c = columns](const at::Tensor& x) {
      return x.slice(-2, r.first, r.second).slice(-1, c.first, c.second);
    };
    std::vector<at::Tensor> parts;
    for (const at::Tensor& gradient : gradients) parts.push_back(part(gradient).contiguous());
    PreconditionedOptions full = options;
    full.view.vectors = VectorPolicy::kFull;
    BOOST_TEST(close(part(whole), trajectory(estimator, full, part(start).contiguous(), parts),
                     {.relative = 1e-8}));
  }
}

BOOST_AUTO_TEST_CASE(shapes_of_views) {
  const auto shape_of = [](const Shape& shape, const ViewOptions& options) {
    return viewed_shape(shape, options);
  };
  const Shape filter = {4, 3, 2, 2};
  BOOST_TEST(shape_of(filter, {}) == (Shape{4, 12}));
  BOOST_TEST(shape_of(filter, {.shape = ShapePolicy::kSpatial}) == (Shape{4, 3, 4}));
  BOOST_TEST(shape_of(filter, {.shape = ShapePolicy::kTensor}) == filter);
  BOOST_TEST(shape_of({1, 6}, {}) == (Shape{6}));
  BOOST_TEST(shape_of({1, 1}, {}).empty());
  BOOST_TEST(shape_of({}, {}).empty());
  const ViewOptions small = {.shape = ShapePolicy::kTensor, .merge_up_to = 8192};
  BOOST_TEST(shape_of({32, 3, 64, 64}, small) == (Shape{96, 4096}));
}

BOOST_AUTO_TEST_CASE(long_axes_have_no_matrix) {
  at::Tensor w = at::zeros({50, 4}, at::kFloat).requires_grad_();
  const auto bytes = [&](const ViewOptions& view) {
    PreconditionedOptions options = plain();
    options.view = view;
    return Preconditioned({{"w", w}}, shampoo_estimator(), options).state_bytes();
  };
  BOOST_TEST(bytes({}) == 4 * 2 * (50 * 50 + 4 * 4));
  BOOST_TEST(bytes({.max_dense = 10}) == 4 * 2 * (50 + 4 * 4));
  BOOST_TEST(bytes({.max_dense = 10, .beyond = ModeKind::kIdentity}) == 4 * 2 * 4 * 4);
  BOOST_TEST(bytes({.block_size = 25}) == 4 * 2 * 2 * (25 * 25 + 4 * 4));
}

BOOST_AUTO_TEST_CASE(absurd_state_is_refused_before_training) {
  at::Tensor w = at::zeros({3000, 2000}, at::kFloat).requires_grad_();
  PreconditionedOptions options;
  options.max_state_bytes = 10'000'000;
  BOOST_CHECK_EXCEPTION(Preconditioned({{"w", w}}, shampoo_estimator(), options), OptionError,
                        [](const OptionError& error) {
                          return std::string(error.what()).find("block_size") != std::string::npos;
                        });
}

BOOST_AUTO_TEST_CASE(names_choose_the_way) {
  const Descent d;
  at::Tensor a = d.start.clone().requires_grad_(), b = d.start.clone().requires_grad_();
  PreconditionedOptions options = plain();
  options.routes = {{{"embed*"}, identity_estimator()}};
  Preconditioned optimizer({{"embedding", a}, {"weight", b}}, adam_estimator(), options);
  a.mutable_grad() = d.gradients[0];
  b.mutable_grad() = d.gradients[0];
  optimizer.step();
  BOOST_TEST(close(a.detach(), d.start - kRate * d.gradients[0]));
  BOOST_TEST(close(b.detach(), d.start - kRate * d.gradients[0].sign(), {.relative = 1e-6}));
}

/// Matrices by a route and vectors by the fallback are both Adam's here, with different momenta.
BOOST_AUTO_TEST_CASE(the_fallback_has_a_momentum_of_its_own) {
  const Descent d;
  at::Tensor a = d.start.clone().requires_grad_();
  at::Tensor b = d.start[0].clone().requires_grad_();
  PreconditionedOptions options = plain();
  options.momentum.beta = 0.5;
  options.fallback_momentum = MomentumOptions{.beta = 0.9};
  Preconditioned optimizer({{"a", a}, {"b", b}}, adam_estimator(), options);
  PreconditionedOptions slow = plain();
  slow.momentum.beta = 0.9;
  PreconditionedOptions fast = plain();
  fast.momentum.beta = 0.5;
  std::vector<at::Tensor> rows;
  for (const at::Tensor& gradient : d.gradients) {
    rows.push_back(gradient[0].clone());
    a.mutable_grad() = gradient;
    b.mutable_grad() = rows.back();
    optimizer.step();
  }
  BOOST_TEST(close(a.detach(), trajectory(adam_estimator(), fast, d.start, d.gradients)[-1]));
  BOOST_TEST(close(b.detach(), trajectory(adam_estimator(), slow, d.start[0], rows)[-1]));
}

BOOST_AUTO_TEST_CASE(the_fallback_decays_as_the_options_say) {
  const Descent d;
  const at::Tensor start = d.start[0].clone();
  std::vector<at::Tensor> rows;
  for (const at::Tensor& gradient : d.gradients) rows.push_back(gradient[0].clone());
  const auto run = [&](WeightDecay kind, bool as_fallback) {
    PreconditionedOptions options = plain();
    options.weight_decay = {.decay = 0.5, .kind = kind};
    if (as_fallback) options.fallback_momentum = MomentumOptions{.beta = 0};
    return trajectory(adam_estimator(), options, start, rows);
  };
  for (const WeightDecay kind : {WeightDecay::kDecoupled, WeightDecay::kDecoupledAfter,
                                 WeightDecay::kIndependent, WeightDecay::kGradient}) {
    BOOST_TEST(close(run(kind, true), run(kind, false)));
  }
  BOOST_TEST(close(run(WeightDecay::kDirection, true), run(WeightDecay::kDecoupled, false)));
}

BOOST_AUTO_TEST_CASE(a_gradient_that_makes_the_basis_alone_moves_nothing) {
  const Descent d;
  PreconditionedOptions options = plain();
  options.weight_decay.decay = 0.5;
  const auto values = trajectory(soap_estimator({.first_gradient = FirstGradient::kBasisOnly}),
                                 options, d.start, d.gradients);
  BOOST_TEST(at::equal(values[0], d.start));
  BOOST_TEST(!at::equal(values[1], d.start));
}

BOOST_AUTO_TEST_CASE(a_first_gradient_too_small_to_set_a_scale_counts_as_none) {
  for (const double size : {1e-19, 1e-22}) {
    std::vector<at::Tensor> gradients = random_gradients(kShape, kSteps);
    gradients[0] *= size;
    for (at::Tensor& gradient : gradients) gradient = gradient.to(at::kFloat);
    for (const EstimatorFactory& estimator :
         {kl_shampoo_estimator(), kl_shampoo_estimator(kl_soap_options()),
          spiked_kl_shampoo_estimator()}) {
      const at::Tensor start = random_parameter(kShape).to(at::kFloat);
      const at::Tensor values = trajectory(estimator, plain(), start, gradients);
      BOOST_TEST(at::equal(values[0], start));
      BOOST_TEST(at::isfinite(values).all().item<bool>());
    }
  }
}

BOOST_AUTO_TEST_CASE(groups_and_schedulers_of_libtorch_work) {
  const Descent d;
  at::Tensor a = d.start.clone().requires_grad_(), b = d.start.clone().requires_grad_();
  PreconditionedOptions slow = plain();
  slow.learning_rate = kRate / 10;
  Preconditioned optimizer(
      {{.parameters = {{"a", a}}, .estimator = identity_estimator(), .options = plain()},
       {.parameters = {{"b", b}}, .estimator = identity_estimator(), .options = slow}});
  at::Tensor x = d.start.clone().requires_grad_(), y = d.start.clone().requires_grad_();
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(TensorList{x}, std::make_unique<torch::optim::SGDOptions>(kRate));
  groups.emplace_back(TensorList{y}, std::make_unique<torch::optim::SGDOptions>(kRate / 10));
  torch::optim::SGD reference(groups, torch::optim::SGDOptions(1));
  torch::optim::StepLR schedule(optimizer, /*step_size=*/2, /*gamma=*/0.5);
  torch::optim::StepLR reference_schedule(reference, /*step_size=*/2, /*gamma=*/0.5);
  for (const at::Tensor& gradient : d.gradients) {
    for (at::Tensor* tensor : {&a, &b, &x, &y}) tensor->mutable_grad() = gradient.clone();
    optimizer.step();
    schedule.step();
    reference.step();
    reference_schedule.step();
  }
  BOOST_TEST(optimizer.learning_rate() < kRate);
  std::stringstream stream;
  torch::save(optimizer, stream);
  Preconditioned loaded(
      {{.parameters = {{"a", a}}, .estimator = identity_estimator(), .options = plain()},
       {.parameters = {{"b", b}}, .estimator = identity_estimator(), .options = plain()}});
  torch::load(loaded, stream);
  for (size_t i : {0, 1}) {
    BOOST_TEST(loaded.param_groups()[i].options().get_lr() ==
               optimizer.param_groups()[i].options().get_lr());
  }
  BOOST_TEST(close(a.detach(), x.detach()));
  BOOST_TEST(close(b.detach(), y.detach()));
}

BOOST_AUTO_TEST_CASE(a_layer_that_was_frozen_joins_later) {
  const Descent d;
  at::Tensor a = d.start.clone().requires_grad_(), late = d.start.clone();
  const auto estimator = soap_estimator();
  Preconditioned optimizer({{"a", a}}, estimator, plain());
  a.mutable_grad() = d.gradients[0];
  optimizer.step();
  late.requires_grad_();
  optimizer.add_group({.parameters = {{"late", late}}, .estimator = estimator, .options = plain()});
  late.mutable_grad() = d.gradients[1];
  optimizer.step();
  BOOST_TEST(!at::equal(late, d.start));
  BOOST_CHECK_THROW(
      optimizer.add_group({.parameters = {{"late", late}}, .estimator = estimator, .options = {}}),
      OptionError);
}

BOOST_AUTO_TEST_CASE(a_risk_gives_its_gradient) {
  at::Tensor w = at::zeros({3}, at::kDouble).requires_grad_();
  const Model model([w](const TensorList& x) { return x[0].matmul(w); }, {{"w", w}});
  const at::Tensor x = random_parameter({6, 3}), y = random_parameter({6});
  const EmpiricalRisk risk(model, mean_squared_error(), tensor_dataset({x}, y, 6));
  const at::Tensor gradient = risk.gradient().front();
  const double loss = risk.loss();
  Preconditioned optimizer(
      {{"w", w}}, identity_estimator(),
      {.learning_rate = kRate, .momentum = {.beta = 0}, .fallback = identity_estimator()});

  const StepReport report = optimizer.step(risk);

  BOOST_TEST(close(w.detach(), -kRate * gradient));
  BOOST_TEST(report.loss == loss, boost::test_tools::tolerance(1e-12));
  BOOST_TEST(report.gradient_norm == gradient.norm().item<double>(),
             boost::test_tools::tolerance(1e-12));
  BOOST_TEST(report.learning_rate == kRate);
  BOOST_TEST(!w.grad().defined());
}

BOOST_AUTO_TEST_CASE(a_parameter_that_the_model_does_not_use_is_skipped) {
  at::Tensor w = at::zeros({3}, at::kDouble).requires_grad_();
  at::Tensor spare = at::ones({3}, at::kDouble).requires_grad_();
  const Model model([w](const TensorList& x) { return x[0].matmul(w); },
                    {{"w", w}, {"spare", spare}});
  const EmpiricalRisk risk(model, mean_squared_error(),
                           tensor_dataset({random_parameter({6, 3})}, random_parameter({6}), 6));
  PreconditionedOptions options = plain();
  options.weight_decay.decay = 0.5;
  Preconditioned optimizer({{"w", w}, {"spare", spare}}, adam_estimator(), options);
  optimizer.step(risk);
  BOOST_TEST(at::equal(spare, at::ones_like(spare)));
  BOOST_TEST(!at::equal(w, at::zeros_like(w)));
}

BOOST_AUTO_TEST_CASE(damaged_state_is_refused) {
  const Descent d;
  at::Tensor w = d.start.clone().requires_grad_();
  Preconditioned optimizer({{"w", w}}, soap_estimator(), plain());
  w.mutable_grad() = d.gradients[0];
  optimizer.step();
  const Archive whole = optimizer.save();
  for (const auto& [name, tensor] : whole.tensors) {
    Archive missing = whole, other = whole;
    missing.tensors.erase(name);
    other.tensors[name] = tensor.to(at::kBool);
    const auto names_it = [&key = name](const Error& error) {
      return std::string(error.what()).find(key) != std::string::npos;
    };
    for (const Archive& damaged : {missing, other}) {
      Preconditioned fresh({{"w", w}}, soap_estimator(), plain());
      BOOST_CHECK_EXCEPTION(fresh.load(damaged), DataError, names_it);
    }
  }
  Archive without_rates = whole;
  without_rates.metadata.erase("learning rates");
  BOOST_CHECK_THROW(optimizer.load(without_rates), DataError);
}

BOOST_AUTO_TEST_CASE(what_makes_no_sense_is_refused) {
  at::Tensor w = at::zeros(kShape, at::kDouble).requires_grad_();
  const auto make = [&](const PreconditionedOptions& options) {
    return Preconditioned({{"w", w}}, adam_estimator(), options);
  };
  PreconditionedOptions options;
  options.learning_rate = -1;
  BOOST_CHECK_THROW(make(options), OptionError);
  options = {};
  options.momentum.beta = 1;
  BOOST_CHECK_THROW(make(options), OptionError);
  options = {};
  options.clip.rms = -1;
  BOOST_CHECK_THROW(make(options), OptionError);
  options = {};
  options.weight_decay.decay = NAN;
  BOOST_CHECK_THROW(make(options), OptionError);
  options = {};
  options.iterates.interpolation = 0;
  BOOST_CHECK_THROW(make(options), OptionError);
  options = {};
  options.graft.epsilon = -1;
  BOOST_CHECK_THROW(make(options), OptionError);
  BOOST_CHECK_THROW(adam_estimator({.beta2 = 1}), OptionError);
  BOOST_CHECK_THROW(soap_estimator({.refresh = {.interval = 0}}), OptionError);
  BOOST_CHECK_THROW(Preconditioned({{"w", w}, {"w", w}}, adam_estimator()), OptionError);
  BOOST_CHECK_THROW(Preconditioned({{"w", w * 2}}, adam_estimator()), OptionError);
  BOOST_CHECK_THROW(make({}).set_learning_rate(NAN), OptionError);
  BOOST_CHECK_THROW(make({}).snapshot("v"), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace curvature::testing
