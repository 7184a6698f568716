#include "support/optimizer_laws.hpp"

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <string>

#include <curvature/core/error.hpp>
#include <curvature/core/random.hpp>

#include "support/tensor_close.hpp"

namespace curvature::testing {
namespace {

/// Numbers in [-1, 1] that depend on `seed` only.
at::Tensor numbers(at::IntArrayRef shape, uint64_t seed) {
  const at::Tensor unit = RandomSource(seed).uniform(0, c10::multiply_integers(shape));
  return (2 * unit.to(test_device()) - 1).view(shape);
}

torch::nn::Sequential filled(torch::nn::Sequential net, uint64_t seed) {
  const at::NoGradGuard no_grad;
  net->to(test_device(), at::kDouble);
  for (at::Tensor& parameter : net->parameters()) {
    parameter.copy_(0.7 * numbers(parameter.sizes(), seed++));
  }
  return net;
}

/// A network of its own with a risk on all examples, of which steps take parts.
struct Setting {
  torch::nn::Sequential net;
  at::Tensor inputs, targets;
  EmpiricalRisk risk;

  Setting(torch::nn::Sequential network, at::Tensor x, at::Tensor y, LossPtr loss)
      : net(network),
        inputs(x),
        targets(y),
        risk(Model::from_module(network), std::move(loss), tensor_dataset({x}, y, x.size(0))) {}

  EmpiricalRisk batch(int64_t first, int64_t count) const {
    return risk.with_data(
        tensor_dataset({inputs.narrow(0, first, count)}, targets.narrow(0, first, count), count),
        first);
  }
  TensorList values() const {
    TensorList values;
    for (const at::Tensor& parameter : net->parameters()) values.push_back(parameter.clone());
    return values;
  }
  void set(const TensorList& values) const {
    const at::NoGradGuard no_grad;
    const std::vector<at::Tensor> parameters = net->parameters();
    for (size_t i = 0; i < values.size(); ++i) parameters[i].copy_(values[i]);
  }
};

/// A classifier with `hidden` units.
Setting classifier(int64_t hidden = 4) {
  const at::Tensor targets = numbers({12, 3}, 2).argmax(1);
  return Setting(filled(torch::nn::Sequential(torch::nn::Linear(3, hidden), torch::nn::Tanh(),
                                              torch::nn::Linear(hidden, 3)),
                        5),
                 numbers({12, 3}, 1), targets, cross_entropy());
}

Setting linear_regression() {
  return Setting(filled(torch::nn::Sequential(torch::nn::Linear(3, 2)), 7), numbers({12, 3}, 8),
                 numbers({12, 2}, 9), mean_squared_error());
}

bool same_bits(const TensorList& a, const TensorList& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!at::equal(a[i], b[i])) return false;
  }
  return true;
}

bool same_bits(const Archive& a, const Archive& b) {
  if (a.metadata != b.metadata || a.tensors.size() != b.tensors.size()) return false;
  for (const auto& [name, tensor] : a.tensors) {
    const auto found = b.tensors.find(name);
    if (found == b.tensors.end() || !at::equal(found->second, tensor)) return false;
  }
  return true;
}

/// Steps number `first`, ..., `first + count - 1` on four examples each.
void run(optim::Minimizer& minimizer, const Setting& setting, int64_t first, int64_t count) {
  for (int64_t step = first; step < first + count; ++step) {
    minimizer.step(setting.batch(4 * (step % 3), 4));
  }
}

void check_optimum(const MinimizerFactory& make, const MinimizerLaws& laws) {
  const Setting setting = linear_regression();
  const at::Tensor inputs =
      at::cat({setting.inputs, at::ones_like(setting.inputs.narrow(1, 0, 1))}, 1);
  const at::Tensor best = std::get<0>(at::linalg_lstsq(inputs, setting.targets));
  const double optimum = (inputs.mm(best) - setting.targets).square().mean().item<double>();
  const double start = setting.risk.loss();
  const auto minimizer = make(setting.risk);
  double last = start;
  for (int64_t step = 0; step < laws.steps; ++step) {
    const optim::StepReport report = minimizer->step(setting.batch(0, 12));
    BOOST_TEST(std::isfinite(report.loss));
    BOOST_TEST(report.gradient_norm >= 0);
    last = report.loss;
  }
  BOOST_TEST(last > optimum - 1e-12);
  BOOST_TEST((setting.risk.loss() - optimum) / (start - optimum) < laws.excess_loss);
}

void check_same_bits(const MinimizerFactory& make) {
  const Setting once = classifier(), again = classifier();
  run(*make(once.risk), once, 0, 6);
  run(*make(again.risk), again, 0, 6);
  BOOST_TEST(same_bits(once.values(), again.values()), "the same steps give other bits");
  BOOST_TEST(!same_bits(once.values(), classifier().values()), "nothing moved");
}

void check_resumption(const MinimizerFactory& make) {
  for (const int64_t pause : {0, 1, 5}) {
    const Setting whole = classifier(), first = classifier(), second = classifier();
    const auto uninterrupted = make(whole.risk);
    uninterrupted->set_learning_rate(uninterrupted->learning_rate() / 2);
    run(*uninterrupted, whole, 0, 8);

    const auto before = make(first.risk);
    before->set_learning_rate(before->learning_rate() / 2);
    run(*before, first, 0, pause);
    const Archive archive = before->save();
    second.set(first.values());
    const auto after = make(second.risk);
    after->load(archive);
    BOOST_TEST(after->learning_rate() == uninterrupted->learning_rate());
    BOOST_TEST(same_bits(after->save(), archive), "a loaded state is saved as another");
    run(*before, first, pause, 8 - pause);  // what was saved stays as it is
    run(*after, second, pause, 8 - pause);
    BOOST_TEST(same_bits(whole.values(), second.values()),
               "resumed after " << pause << " steps: other bits");
  }
}

/// The square root's derivative at 0 is infinite; the loss is not.
Setting positive_square_root() {
  auto net =
      torch::nn::Sequential(torch::nn::Linear(torch::nn::LinearOptions(2, 2).bias(false)),
                            torch::nn::Functional([](const at::Tensor& x) { return x.sqrt(); }));
  {
    const at::NoGradGuard no_grad;
    net->to(test_device(), at::kDouble);
    net->parameters().front().copy_(numbers({2, 2}, 6).abs() + 1);
  }
  return Setting(net, numbers({8, 2}, 3).abs() + 0.5, numbers({8, 2}, 4).abs() + 1,
                 mean_squared_error());
}

void check_failure(const MinimizerFactory& make) {
  const Setting setting = positive_square_root(), twin = positive_square_root();
  const EmpiricalRisk bad = setting.risk.with_data(
      tensor_dataset({at::zeros_like(setting.inputs)}, setting.targets, 8), 8);
  const auto minimizer = make(setting.risk), other = make(twin.risk);
  for (int round = 0; round < 2; ++round) {
    const TensorList values = setting.values();
    const Archive state = minimizer->save();
    BOOST_CHECK_EXCEPTION(minimizer->step(bad), NumericalError, [](const Error& error) {
      return std::string(error.what()).find("0.weight") != std::string::npos;
    });
    BOOST_TEST(same_bits(setting.values(), values), "a failed step moved parameters");
    BOOST_TEST(same_bits(minimizer->save(), state), "a failed step changed the state");
    minimizer->step(setting.batch(0, 8));
    other->step(twin.batch(0, 8));
  }
  BOOST_TEST(same_bits(setting.values(), twin.values()), "a failed step left something behind");
}

void check_zero_gradient(const MinimizerFactory& make) {
  auto net = filled(torch::nn::Sequential(torch::nn::Linear(3, 2)), 7);
  const at::Tensor inputs = numbers({6, 3}, 8);
  const Setting setting(net, inputs, net->forward(inputs).detach(), mean_squared_error());
  const TensorList values = setting.values();
  const optim::StepReport report = make(setting.risk)->step(setting.batch(0, 6));
  BOOST_TEST(report.loss == 0);
  BOOST_TEST(report.gradient_norm == 0);
  BOOST_TEST(same_bits(setting.values(), values), "a zero gradient moved parameters");
}

/// One layer is frozen, one is not used.
struct PartlyUsedImpl : torch::nn::Module {
  PartlyUsedImpl()
      : frozen(register_module("frozen", torch::nn::Linear(3, 4))),
        used(register_module("used", torch::nn::Linear(4, 3))),
        spare(register_module("spare", torch::nn::Linear(2, 2))) {}
  at::Tensor forward(const at::Tensor& x) { return used(frozen(x).tanh()); }
  torch::nn::Linear frozen, used, spare;
};
TORCH_MODULE(PartlyUsed);

void check_frozen_and_unused(const MinimizerFactory& make) {
  PartlyUsed net;
  {
    const at::NoGradGuard no_grad;
    net->to(test_device(), at::kDouble);
    uint64_t seed = 1;
    for (at::Tensor& parameter : net->parameters()) {
      parameter.copy_(numbers(parameter.sizes(), seed++));
    }
  }
  for (at::Tensor& parameter : net->frozen->parameters()) parameter.requires_grad_(false);
  const at::Tensor inputs = numbers({6, 3}, 1), targets = numbers({6, 3}, 2).argmax(1);
  const EmpiricalRisk risk(Model::from_module(net), cross_entropy(),
                           tensor_dataset({inputs}, targets, 6));
  const at::Tensor frozen = net->frozen->weight.clone(), spare = net->spare->weight.clone(),
                   used = net->used->weight.clone();
  const auto minimizer = make(risk);
  for (int step = 0; step < 3; ++step) minimizer->step(risk);
  BOOST_TEST(at::equal(net->frozen->weight, frozen), "a frozen parameter moved");
  BOOST_TEST(at::equal(net->spare->weight, spare), "an unused parameter moved");
  BOOST_TEST(!at::equal(net->used->weight, used), "a used parameter did not move");
}

void check_layers_of_one(const MinimizerFactory& make) {
  const Setting setting(filled(torch::nn::Sequential(torch::nn::Linear(1, 1), torch::nn::Tanh(),
                                                     torch::nn::Linear(1, 1)),
                               3),
                        numbers({5, 1}, 4), numbers({5, 1}, 5), mean_squared_error());
  const double start = setting.risk.loss();
  const auto minimizer = make(setting.risk);
  for (int step = 0; step < 10; ++step) minimizer->step(setting.batch(0, 5));
  BOOST_TEST(setting.risk.loss() < start);
}

void check_side_effects(const MinimizerFactory& make) {
  const Setting setting = classifier();
  std::vector<void*> places;
  TensorList gradients;
  for (at::Tensor& parameter : setting.net->parameters()) {
    places.push_back(parameter.data_ptr());
    gradients.push_back(at::full_like(parameter, 3).detach());
    parameter.mutable_grad() = gradients.back();
  }
  const at::Tensor generator = at::globalContext().defaultGenerator(at::kCPU).get_state();
  const auto minimizer = make(setting.risk);
  const int64_t bytes = minimizer->state_bytes();
  run(*minimizer, setting, 0, 3);
  BOOST_TEST(minimizer->state_bytes() == bytes);
  BOOST_TEST(at::equal(generator, at::globalContext().defaultGenerator(at::kCPU).get_state()));
  const std::vector<at::Tensor> parameters = setting.net->parameters();
  for (size_t i = 0; i < parameters.size(); ++i) {
    BOOST_TEST(parameters[i].data_ptr() == places[i], "a parameter lives elsewhere now");
    BOOST_TEST(parameters[i].requires_grad());
    BOOST_TEST(parameters[i].grad().is_same(gradients[i]));
    BOOST_TEST(at::equal(parameters[i].grad(), at::full_like(parameters[i], 3)));
  }
}

void check_wrong_use(const MinimizerFactory& make, const MinimizerLaws& laws) {
  const Setting setting = classifier(), other = classifier(), wider = classifier(6);
  const auto minimizer = make(setting.risk);
  run(*minimizer, setting, 0, 2);
  const Archive state = minimizer->save();
  BOOST_CHECK_THROW(minimizer->step(other.batch(0, 4)), OptionError);
  BOOST_CHECK_THROW(minimizer->set_learning_rate(-1), OptionError);
  BOOST_CHECK_THROW(minimizer->set_learning_rate(std::nan("")), OptionError);
  BOOST_CHECK_THROW(minimizer->load({}), DataError);
  if (laws.state_has_shapes) {
    const auto of_wider = make(wider.risk);
    run(*of_wider, wider, 0, 2);
    BOOST_CHECK_THROW(minimizer->load(of_wider->save()), DataError);
  }
  BOOST_TEST(same_bits(minimizer->save(), state), "wrong use changed the state");
}

}  // namespace

void check_minimizer_laws(const MinimizerFactory& make, const MinimizerLaws& laws) {
  BOOST_TEST_CONTEXT("optimum") check_optimum(make, laws);
  BOOST_TEST_CONTEXT("same bits") check_same_bits(make);
  BOOST_TEST_CONTEXT("resumption") check_resumption(make);
  BOOST_TEST_CONTEXT("failure") check_failure(make);
  BOOST_TEST_CONTEXT("zero gradient") check_zero_gradient(make);
  BOOST_TEST_CONTEXT("frozen and unused") check_frozen_and_unused(make);
  BOOST_TEST_CONTEXT("layers of one") check_layers_of_one(make);
  BOOST_TEST_CONTEXT("side effects") check_side_effects(make);
  BOOST_TEST_CONTEXT("wrong use") check_wrong_use(make, laws);
}

}  // namespace curvature::testing
