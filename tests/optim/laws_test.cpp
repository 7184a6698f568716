// What holds for every gradient-only optimizer.

#include <torch/torch.h>

#include <limits>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <curvature/core/error.hpp>
#include <curvature/operators/algebra.hpp>

#include "optim/methods.hpp"
#include "optim/reference.hpp"
#include "support/tensor_close.hpp"

namespace curvature::testing {

BOOST_AUTO_TEST_SUITE(laws_test)

namespace {

using optim::Preconditioned;
using optim::PreconditionedOptions;

const auto each_method = boost::unit_test::data::make(optim_methods());

/// A small network's parameters: a matrix, a filter, a vector, a scalar, sizes of 1.
struct Parameters {
  explicit Parameters(at::ScalarType dtype = at::kDouble) {
    const std::vector<std::pair<std::string, Shape>> shapes = {
        {"matrix", {5, 4}}, {"filter", {3, 2, 2, 2}}, {"vector", {4}},
        {"scalar", {}},     {"row", {1, 6}},          {"one", {1, 1}}};
    for (const auto& [name, shape] : shapes) {
      named.push_back({name, random_parameter(shape, dtype).requires_grad_()});
    }
  }

  /// Gradients number `t` of all parameters, times `scale`.
  void set_gradients(uint64_t t, double scale = 1) {
    for (size_t i = 0; i < named.size(); ++i) {
      at::Tensor& tensor = named[i].tensor;
      const at::Tensor drawn = RandomSource(t).normal(i, tensor.numel()).view(tensor.sizes());
      tensor.mutable_grad() = drawn.to(tensor.scalar_type()) * scale;
    }
  }

  at::Tensor flat() const {
    std::vector<at::Tensor> parts;
    for (const NamedTensor& item : named) parts.push_back(item.tensor.detach().flatten());
    return at::cat(parts).clone();
  }

  std::vector<NamedTensor> named;
};

void run(Preconditioned& optimizer, Parameters& parameters, uint64_t from, uint64_t to) {
  for (uint64_t t = from; t < to; ++t) {
    parameters.set_gradients(t);
    optimizer.step();
  }
}

bool same(const at::Tensor& a, const at::Tensor& b) { return at::equal(a, b); }

double number(const at::Tensor& x) { return x.item<double>(); }

PreconditionedOptions with_decay(PreconditionedOptions options, double decay) {
  options.weight_decay.decay = decay;
  return options;
}

}  // namespace

/// J(W) = 1/2 |A (W - W*) B|^2 with condition number 16 on each side.
BOOST_DATA_TEST_CASE(a_quadratic_goes_to_its_minimum, each_method, method) {
  const at::Tensor a = at::linspace(1, 4, 5, at::kDouble), b = at::linspace(1, 4, 4, at::kDouble);
  const at::Tensor weights = a.square().unsqueeze(1) * b.square() / 16;
  const at::Tensor minimum = random_parameter({5, 4}) * 0.3;
  at::Tensor w = at::zeros({5, 4}, at::kDouble).requires_grad_();
  Preconditioned optimizer({{"w", w}}, method.estimator, method.options);
  const auto loss = [&] { return (weights * (w - minimum).square()).sum() / 2; };
  const double before = number(loss());
  constexpr int kSteps = 600;
  for (int t = 0; t < kSteps; ++t) {
    optimizer.set_learning_rate(method.rate * (1 - static_cast<double>(t) / kSteps));
    optimizer.zero_grad();
    optimizer.step([&] {
      at::Tensor value = loss();
      value.backward();
      return value;
    });
  }
  BOOST_TEST(number(loss()) < 1e-4 * before);
}

/// Also where the layout of a matrix shows in the rounding.
BOOST_DATA_TEST_CASE(a_loaded_state_continues_bit_for_bit,
                     each_method* boost::unit_test::data::make({at::kDouble, at::kFloat}), method,
                     dtype) {
  Parameters whole(dtype), half(dtype);
  PreconditionedOptions options = with_decay(method.options, 0.1);
  Preconditioned straight(whole.named, method.estimator, options);
  run(straight, whole, 0, 11);

  Preconditioned first(half.named, method.estimator, options);
  run(first, half, 0, 5);  // between two refreshes
  Preconditioned second(half.named, method.estimator, options);
  second.load(first.save());
  run(second, half, 5, 8);
  std::stringstream stream;
  torch::save(second, stream);
  Preconditioned third(half.named, method.estimator, options);
  torch::load(third, stream);
  run(third, half, 8, 11);

  BOOST_TEST(same(whole.flat(), half.flat()));
}

BOOST_DATA_TEST_CASE(runs_are_reproducible_and_leave_gradients_alone, each_method, method) {
  Parameters a, b;
  Preconditioned first(a.named, method.estimator, method.options);
  Preconditioned second(b.named, method.estimator, method.options);
  run(first, a, 0, 7);
  run(second, b, 0, 7);
  BOOST_TEST(same(a.flat(), b.flat()));

  const at::Tensor gradient = a.named[0].tensor.grad().clone();
  first.step();
  BOOST_TEST(same(gradient, a.named[0].tensor.grad()));
  BOOST_TEST(a.named[0].tensor.requires_grad());
}

BOOST_DATA_TEST_CASE(a_zero_first_gradient_moves_by_decay_alone, each_method, method) {
  Parameters parameters;
  Preconditioned optimizer(parameters.named, method.estimator, with_decay(method.options, 0.5));
  const at::Tensor before = parameters.flat();
  parameters.set_gradients(0, 0);
  optimizer.step();
  BOOST_TEST(close(parameters.flat(), before * (1 - 0.5 * optimizer.learning_rate())));
  run(optimizer, parameters, 1, 6);
  BOOST_TEST(at::isfinite(parameters.flat()).all().item<bool>());
}

BOOST_DATA_TEST_CASE(a_bad_gradient_is_refused_and_changes_nothing, each_method, method) {
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(), 1e200}) {
    Parameters spoilt, clean;
    Preconditioned optimizer(spoilt.named, method.estimator, method.options);
    Preconditioned reference(clean.named, method.estimator, method.options);
    run(optimizer, spoilt, 0, 4);
    run(reference, clean, 0, 4);
    spoilt.set_gradients(99);
    spoilt.named[1].tensor.mutable_grad().view(-1)[3] = bad;
    BOOST_CHECK_EXCEPTION(optimizer.step(), NumericalError, [](const NumericalError& error) {
      return std::string(error.what()).find("'filter'") != std::string::npos;
    });
    run(optimizer, spoilt, 4, 8);
    run(reference, clean, 4, 8);
    BOOST_TEST(same(spoilt.flat(), clean.flat()));
  }
}

BOOST_DATA_TEST_CASE(a_parameter_without_gradient_is_skipped, each_method, method) {
  Parameters some;
  Preconditioned optimizer(some.named, method.estimator, with_decay(method.options, 0.1));
  run(optimizer, some, 0, 3);
  const at::Tensor matrix = some.named[0].tensor.detach().clone();
  const at::Tensor vector = some.named[2].tensor.detach().clone();
  some.set_gradients(3);
  some.named[0].tensor.mutable_grad().reset();
  some.named[2].tensor.mutable_grad().reset();
  const at::Tensor filter = some.named[1].tensor.detach().clone();
  optimizer.step();
  BOOST_TEST(same(some.named[0].tensor, matrix));
  BOOST_TEST(same(some.named[2].tensor, vector));
  BOOST_TEST(!same(some.named[1].tensor, filter));
}

BOOST_DATA_TEST_CASE(another_shape_cannot_be_loaded, each_method, method) {
  Parameters parameters;
  Preconditioned optimizer(parameters.named, method.estimator, method.options);
  run(optimizer, parameters, 0, 4);
  at::Tensor other = at::zeros({5, 3}, at::kDouble).requires_grad_();
  Preconditioned narrow({{"matrix", other}}, method.estimator, method.options);
  BOOST_CHECK_EXCEPTION(narrow.load(optimizer.save()), DataError, [](const DataError& error) {
    return std::string(error.what()).find("'matrix' has another shape; expected [5, 3]") !=
           std::string::npos;
  });
  Preconditioned more(parameters.named, method.estimator, method.options);
  more.add_group({.parameters = {{"new", other}}, .estimator = method.estimator, .options = {}});
  BOOST_CHECK_THROW(more.load(optimizer.save()), DataError);
  BOOST_CHECK_THROW(more.load({}), DataError);
}

BOOST_DATA_TEST_CASE(directions_are_a_power_of_the_operator, each_method, method) {
  if (!method.is_root || method.options.graft.kind != optim::Graft::kNone) return;
  at::Tensor w = at::zeros({5, 4}, at::kDouble).requires_grad_();
  PreconditionedOptions options = method.options;
  options.learning_rate = 0;
  options.momentum.beta = 0;
  Preconditioned optimizer({{"w", w}}, method.estimator, options);
  for (const at::Tensor& gradient : random_gradients({5, 4}, 10)) {
    w.mutable_grad() = gradient;
    optimizer.step();
  }
  // What does not learn any more shows the direction: one more step changes state and parameter,
  // so that the operator is compared before it (order: precondition first) or after it.
  const OperatorPtr before = optimizer.snapshot("w").front();
  optimizer.set_learning_rate(1);
  const at::Tensor gradient = random_gradients({5, 4}, 1, 5).front();
  w.mutable_grad() = gradient;
  optimizer.step();
  const OperatorPtr after = optimizer.snapshot("w").front();
  const auto by = [&](const OperatorPtr& s) {
    return pow(s, -0.5)->apply(gradient.flatten()).view({5, 4});
  };
  const at::Tensor direction = -w.detach();
  const double distance =
      std::min(number((direction - by(before)).norm()), number((direction - by(after)).norm()));
  BOOST_TEST(distance < 1e-5 * number(direction.norm()));
}

BOOST_DATA_TEST_CASE(float32_follows_float64, each_method, method) {
  Parameters wide, narrow(at::kFloat);
  Preconditioned exact(wide.named, method.estimator, method.options);
  Preconditioned single(narrow.named, method.estimator, method.options);
  run(exact, wide, 0, 20);
  run(single, narrow, 0, 20);
  BOOST_TEST(close(narrow.flat().to(at::kDouble), wide.flat(), {.relative = 2e-3}));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace curvature::testing
