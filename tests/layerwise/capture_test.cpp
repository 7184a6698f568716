#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <stdexcept>

#include <ATen/record_function.h>

#include <curvature/core/error.hpp>

#include "layerwise/capture.hpp"
#include "layerwise/reference.hpp"

BOOST_AUTO_TEST_SUITE(capture_test)

using namespace curvature;
using namespace curvature::testing;
using curvature::detail::OperationUse;
using curvature::detail::output_gradients;
using curvature::detail::record_uses;

namespace {

std::vector<std::string> names(const std::vector<OperationUse>& uses) {
  std::vector<std::string> result;
  for (const OperationUse& use : uses) result.push_back(use.name);
  return result;
}

struct Net {
  at::Tensor w = parameter({3, 3}, 1), b = parameter({3}, 2), x = numbers({4, 3}, 3);
  TensorList parameters() const { return {w, b}; }
};

/// How each parameter of a model of one input is treated.
std::map<std::string, ParameterTreatment> treatments(const Model& model, const at::Tensor& input,
                                                     int64_t batch_size = 100) {
  const at::Tensor output = model({input}).detach();
  const EmpiricalRisk risk(model, mean_squared_error(),
                           tensor_dataset({input}, at::zeros_like(output), batch_size));
  std::map<std::string, ParameterTreatment> result;
  for (const ParameterTreatment& treatment : describe_layers(risk)) {
    result[treatment.name] = treatment;
  }
  return result;
}

bool mentions(const ParameterTreatment& treatment, const std::string& text) {
  return treatment.treatment.find(text) != std::string::npos;
}

}  // namespace

BOOST_AUTO_TEST_CASE(uses_are_recorded_in_order_with_their_arguments) {
  const Net net;
  const auto uses = record_uses(net.parameters(), [&] {
    const at::Tensor h = at::linear(net.x, net.w, net.b).tanh();
    at::matmul(h * 2, net.w.t()) + net.b;
  });
  const std::vector<std::string> expected = {"aten::linear", "aten::matmul", "aten::add"};
  BOOST_TEST(names(uses) == expected, boost::test_tools::per_element());
  BOOST_REQUIRE(uses.size() == 3);
  BOOST_TEST(uses[0].parameters.size() == 2);
  BOOST_TEST(uses[0].parameter_at(1)->is_whole);
  BOOST_TEST(uses[0].parameter_at(1)->parameter == 0);
  BOOST_TEST(uses[0].parameter_at(2)->parameter == 1);
  BOOST_TEST(uses[0].parameter_at(0) == nullptr);
  BOOST_TEST(uses[1].parameter_at(1)->is_transposed);
  BOOST_TEST(!uses[1].parameter_at(1)->is_whole);
  BOOST_TEST(uses[0].tensor(0).is_same(net.x));
}

BOOST_AUTO_TEST_CASE(views_and_operations_without_a_gradient_are_no_uses) {
  const Net net;
  const auto uses = record_uses(net.parameters(), [&] {
    net.w.t().unsqueeze(0).select(1, 0).view({3});
    net.w.detach().sum();
    const at::NoGradGuard no_grad;
    net.w.sum();
  });
  BOOST_TEST(uses.empty());
  const auto part = record_uses(net.parameters(), [&] { net.x.mv(net.w.select(0, 1)); });
  BOOST_REQUIRE(part.size() == 1);
  BOOST_TEST(part[0].parameters[0].parameter == 0);
  BOOST_TEST(!part[0].parameters[0].is_whole);
  BOOST_TEST(!part[0].parameters[0].is_transposed);
}

BOOST_AUTO_TEST_CASE(gradients_arrive_where_the_outputs_leave_the_operations) {
  const at::Tensor w = parameter({3, 3}, 1), b = parameter({3}, 2);
  for (const bool sequence : {false, true}) {
    const at::Tensor x = sequence ? numbers({4, 2, 3}, 3) : numbers({4, 3}, 3);
    at::Tensor output;
    const auto uses = record_uses({w, b}, [&] { output = at::linear(x, w, b).relu_().square(); });
    const at::Tensor v = numbers(output.sizes(), 4);
    const TensorList gradients = output_gradients(output, v, {uses.at(0).output});
    const at::Tensor y = at::linear(x, w, b).detach();
    BOOST_TEST(close(gradients[0].reshape(y.sizes()), 2 * y.relu() * v));
    BOOST_TEST(!w.grad().defined());
  }
}

BOOST_AUTO_TEST_CASE(nothing_is_left_behind) {
  const Net net;
  BOOST_REQUIRE(!at::hasCallbacks());
  BOOST_CHECK_THROW(record_uses(net.parameters(),
                                [&] {
                                  at::linear(net.x, net.w, net.b);
                                  throw std::runtime_error("no");
                                }),
                    std::runtime_error);
  BOOST_TEST(!at::hasCallbacks());
  // An exception from within an operation that uses parameters.
  BOOST_CHECK_THROW(record_uses(net.parameters(),
                                [&] {
                                  at::linear(numbers({4, 2}, 5), net.w, net.b);
                                }),
                    c10::Error);
  BOOST_TEST(!at::hasCallbacks());
  const auto uses = record_uses(net.parameters(), [&] { at::linear(net.x, net.w, net.b); });
  BOOST_TEST(uses.size() == 1);
  at::linear(net.x, net.w, net.b);
  BOOST_TEST(uses.size() == 1);
  BOOST_TEST(!at::hasCallbacks());
}

BOOST_AUTO_TEST_CASE(a_failure_inside_an_operation_does_not_end_the_recording) {
  const Net net;
  const auto uses = record_uses(net.parameters(), [&] {
    try {
      at::linear(numbers({4, 2}, 5), net.w, net.b);
    } catch (const c10::Error&) {
    }
    at::linear(net.x, net.w, net.b);
  });
  BOOST_TEST(uses.size() == 1);
}

BOOST_AUTO_TEST_CASE(recordings_may_be_nested) {
  const Net net;
  std::vector<OperationUse> inner;
  const auto outer = record_uses({net.w}, [&] {
    at::mm(net.x, net.w);
    inner = record_uses({net.b}, [&] { net.x + net.b; });
    at::mm(net.x, net.w);
  });
  BOOST_TEST(outer.size() == 2);
  BOOST_TEST(inner.size() == 1);
}

BOOST_AUTO_TEST_CASE(writes_to_an_input_after_its_use_are_noticed) {
  const Net net;
  at::Tensor h = net.x.clone();
  const auto uses = record_uses({net.w}, [&] { at::linear(h, net.w); });
  BOOST_TEST(!uses.at(0).was_written_to(0));
  h.mul_(2);
  BOOST_TEST(uses.at(0).was_written_to(0));
  BOOST_TEST(!uses.at(0).was_written_to(1));
}

BOOST_AUTO_TEST_CASE(covered_parameters_name_their_layers) {
  torch::nn::Sequential net(torch::nn::Conv2d(torch::nn::Conv2dOptions(4, 4, 2).groups(2)),
                            torch::nn::BatchNorm2d(4), torch::nn::ReLU(), torch::nn::Flatten(),
                            torch::nn::Linear(16, 2));
  seeded(net, 6);
  const auto found = treatments(Model::from_module(net), numbers({3, 4, 3, 3}, 7));
  for (const auto& [name, treatment] : found) BOOST_TEST(treatment.covered, name);
  BOOST_TEST(mentions(found.at("0.weight"), "convolution 2-d, 2 groups"));
  BOOST_TEST(mentions(found.at("0.bias"), "convolution 2-d"));
  BOOST_TEST(mentions(found.at("1.weight"), "batch norm"));
  BOOST_TEST(mentions(found.at("4.weight"), "linear"));
}

BOOST_AUTO_TEST_CASE(recurrent_layers_are_not_covered_but_what_follows_is) {
  auto lstm = seeded(torch::nn::LSTM(torch::nn::LSTMOptions(2, 3).batch_first(true)), 8);
  auto last = seeded(torch::nn::Linear(3, 2), 9);
  std::vector<NamedTensor> parameters;
  for (const auto& item : lstm->named_parameters())
    parameters.push_back({item.key(), item.value()});
  for (const auto& item : last->named_parameters())
    parameters.push_back({item.key(), item.value()});
  const Model model(
      [=](const TensorList& x) mutable {
        return last->forward(std::get<0>(lstm->forward(x[0])).select(1, -1));
      },
      parameters);
  const auto found = treatments(model, numbers({4, 3, 2}, 10));
  for (const auto& item : lstm->named_parameters()) {
    BOOST_TEST(!found.at(item.key()).covered, item.key());
    BOOST_TEST(mentions(found.at(item.key()), "not covered: "));
  }
  BOOST_TEST(mentions(found.at("weight_ih_l0"), "lstm"));
  BOOST_TEST(found.at("weight").covered);
  BOOST_TEST(found.at("bias").covered);
}

BOOST_AUTO_TEST_CASE(what_the_examples_share_before_they_meet_it_is_covered_too) {
  const at::Tensor table = parameter({4, 3}, 11), w = parameter({2, 3}, 12);
  const Model model(
      [=](const TensorList& x) {
        const at::Tensor positions = at::arange(x[0].size(1), at::kLong);
        return at::linear(x[0] + at::embedding(table, positions), w);
      },
      {{"table", table}, {"w", w}});
  for (const int64_t batch_size : {1, 2, 4, 8}) {  // some divide the length
    const auto found = treatments(model, numbers({8, 4, 3}, 13), batch_size);
    BOOST_TEST(found.at("table").covered, batch_size);
    BOOST_TEST(found.at("w").covered);
  }
}

BOOST_AUTO_TEST_CASE(a_residual_of_zero_hides_no_use) {
  const at::Tensor w = parameter({2, 3}, 31), b = parameter({2}, 32);
  const Model model([=](const TensorList& x) { return at::linear(x[0], w, b) * w.sum(); },
                    {{"w", w}, {"b", b}});
  const at::Tensor x = numbers({4, 3}, 33);
  const EmpiricalRisk risk(model, mean_squared_error(),
                           tensor_dataset({x}, model({x}).detach(), 4));
  BOOST_TEST(!describe_layers(risk).front().covered);
}

BOOST_AUTO_TEST_CASE(a_weight_that_is_a_vector_is_not_covered) {
  const at::Tensor v = parameter({3}, 34), w = parameter({2, 1}, 35);
  const Model model(
      [=](const TensorList& x) { return at::linear(at::linear(x[0], v).unsqueeze(-1), w); },
      {{"v", v}, {"w", w}});
  const auto found = treatments(model, numbers({4, 3}, 36));
  BOOST_TEST(mentions(found.at("v"), "not a matrix"));
  BOOST_TEST(found.at("w").covered);
}

BOOST_AUTO_TEST_CASE(an_input_may_be_written_to_after_a_use_that_does_not_keep_it) {
  const at::Tensor b = parameter({3}, 37), w = parameter({2, 3}, 38);
  const Model model(
      [=](const TensorList& x) {
        at::Tensor h = x[0] * 2;
        const at::Tensor y = at::linear(h + b, w);
        return y + h.mul_(3).sum(1, true);
      },
      {{"b", b}, {"w", w}});
  for (const auto& [name, treatment] : treatments(model, numbers({4, 3}, 39))) {
    BOOST_TEST(treatment.covered, name);
  }
}

BOOST_AUTO_TEST_CASE(sparse_gradients_hide_no_embedding) {
  const at::Tensor table = parameter({5, 3}, 47), w = parameter({2, 3}, 48);
  const Model model(
      [=](const TensorList& x) {
        const at::Tensor indices = x[0].gt(0).to(at::kLong) + x[0].gt(1).to(at::kLong);
        return at::linear(at::embedding(table, indices, -1, false, /*sparse=*/true).sum(1), w);
      },
      {{"table", table}, {"w", w}});
  for (const auto& [name, treatment] : treatments(model, numbers({5, 4}, 49))) {
    BOOST_TEST(treatment.covered, name);
  }
}

BOOST_AUTO_TEST_CASE(biases_that_need_blocks_of_their_own_say_so) {
  const at::Tensor w = parameter({3, 3}, 40), b = parameter({3}, 41), c = parameter({3}, 42);
  const auto found = treatments(
      Model([=](const TensorList& x) { return at::linear(at::linear(x[0], w, b).tanh(), w, c); },
            {{"w", w}, {"b", b}, {"c", c}}),
      numbers({4, 3}, 43));
  for (const char* name : {"w", "b", "c"}) {
    BOOST_TEST(mentions(found.at(name), "separate_bias"), name);
  }
}

BOOST_AUTO_TEST_CASE(positions_that_are_shared_go_with_axes_of_size_one) {
  const at::Tensor table = parameter({6, 1}, 44), kernel = parameter({1, 1, 3}, 45);
  const Model model(
      [=](const TensorList& x) {
        const at::Tensor positions = at::arange(6, at::kLong);
        return at::conv1d(x[0] + at::embedding(table, positions).t(), kernel).flatten(1);
      },
      {{"table", table}, {"kernel", kernel}});
  for (const auto& [name, treatment] : treatments(model, numbers({5, 1, 6}, 46))) {
    BOOST_TEST(treatment.covered, name);
  }
}

BOOST_AUTO_TEST_CASE(unknown_uses_are_not_covered_and_named) {
  const at::Tensor w = parameter({3, 3}, 14), c = parameter({3}, 15), spare = parameter({2}, 16);
  const auto treat = [&](const std::function<at::Tensor(const at::Tensor&)>& f) {
    return treatments(
        Model([f](const TensorList& x) { return f(x[0]); }, {{"w", w}, {"c", c}, {"spare", spare}}),
        numbers({4, 3}, 17));
  };
  const auto left = treat([=](const at::Tensor& x) { return w.mm(x.t()).t() + c; });
  BOOST_TEST(!left.at("w").covered);
  BOOST_TEST(mentions(left.at("w"), "from the left"));
  BOOST_TEST(left.at("c").covered);
  BOOST_TEST(left.at("spare").treatment == "unused");
  const auto normed = treat([=](const at::Tensor& x) { return at::linear(x, w / w.norm(), c); });
  BOOST_TEST(!normed.at("w").covered);
  BOOST_TEST(normed.at("c").covered);
  const auto part = treat([=](const at::Tensor& x) { return x.mm(w.narrow(1, 0, 2)) * c.sum(); });
  BOOST_TEST(!part.at("w").covered);
  BOOST_TEST(!part.at("c").covered);
  const auto twice =
      treat([=](const at::Tensor& x) { return at::linear(at::linear(x, w).tanh(), w.exp(), c); });
  BOOST_TEST(!twice.at("w").covered);
  const auto both_ways =
      treat([=](const at::Tensor& x) { return at::linear(at::linear(x, w).tanh(), w.t(), c); });
  BOOST_TEST(!both_ways.at("w").covered);
  BOOST_TEST(mentions(both_ways.at("w"), "transpose"));
}

BOOST_AUTO_TEST_SUITE_END()
