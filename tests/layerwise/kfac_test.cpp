#include <torch/torch.h>

#include <torch/csrc/jit/api/module.h>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <filesystem>

#include <curvature/core/error.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/model/torchscript.hpp>
#include <curvature/operators/algebra.hpp>

#include "layerwise/reference.hpp"
#include "support/operator_laws.hpp"
#include "support/problems.hpp"

BOOST_AUTO_TEST_SUITE(kfac_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

using torch::nn::Linear;
using Sequential = torch::nn::Sequential;

/// A model with its inputs and targets; cross-entropy if the targets are labels.
struct Setting {
  Model model;
  at::Tensor inputs, targets;
  bool classifies = false;
  int64_t class_axis = -1;

  LossPtr loss() const {
    return classifies ? cross_entropy({.class_axis = class_axis})
                      : mean_squared_error({.class_axis = class_axis});
  }
  EmpiricalRisk risk(RiskOptions options = {}, int64_t batch_size = 3,
                     at::Tensor weights = {}) const {
    return EmpiricalRisk(model, loss(),
                         tensor_dataset({inputs}, targets, batch_size, std::move(weights)),
                         std::move(options));
  }
};

Setting setting(const Model& model, const at::Tensor& inputs, bool classifies = false,
                int64_t class_axis = -1) {
  const at::Tensor output = model({inputs}).detach();
  const at::Tensor targets = numbers(output.sizes(), 70);
  return {model, inputs, classifies ? targets.argmax(class_axis) : targets, classifies, class_axis};
}

Model mlp() {
  return Model::from_module(seeded(Sequential(Linear(3, 4), torch::nn::Tanh(), Linear(4, 3)), 60));
}

/// Two linear layers and what is done between them.
Model linear_net(const std::function<at::Tensor(const at::Tensor&)>& between = {},
                 const std::function<at::Tensor(const at::Tensor&)>& after = {}) {
  const auto net = seeded(Sequential(Linear(3, 4), Linear(4, 2)), 61);
  std::vector<NamedTensor> parameters;
  for (const auto& item : net->named_parameters()) parameters.push_back({item.key(), item.value()});
  return Model(
      [=](const TensorList& x) {
        at::Tensor h = at::linear(x[0], parameters[0].tensor, parameters[1].tensor);
        if (between) h = between(h);
        h = at::linear(h, parameters[2].tensor, parameters[3].tensor);
        return after ? after(h) : h;
      },
      parameters);
}

at::Tensor blocks_of(const OperatorPtr& a, const EmpiricalRisk& risk) {
  return keep_blocks(materialize(*a), risk.space(), /*by_layer=*/true);
}
at::Tensor ggn_blocks(const EmpiricalRisk& risk) { return blocks_of(ggn(risk), risk); }

double distance(const at::Tensor& a, const at::Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

at::Tensor average(const at::Tensor& x) { return x.mean(1); }
at::Tensor total(const at::Tensor& x) { return x.sum(1); }

const KfacOptions kReduce{.weight_sharing = WeightSharing::kReduce};

/// z-scores of a sample's mean `[n, q]` against its expectation `[q]`, the largest.
double largest_z(const TensorList& sample, const at::Tensor& expected) {
  const at::Tensor x = at::stack(sample);
  const at::Tensor error = x.std(0) / std::sqrt(static_cast<double>(x.size(0)));
  return ((x.mean(0) - expected).abs() / error).max().item<double>();
}

/// A file that is removed at the end of the test.
struct TemporaryFile {
  std::string path =
      (std::filesystem::temp_directory_path() / (std::to_string(::getpid()) + "-kfac.pt")).string();
  ~TemporaryFile() { std::filesystem::remove(path); }
};

}  // namespace

// -------------------------------------------------------------------------------------------------
// Where K-FAC is exact, and where it must not be

BOOST_AUTO_TEST_CASE(one_example_makes_type_2_the_blocks_of_the_ggn) {
  for (const bool classifies : {false, true}) {
    for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
      const EmpiricalRisk risk =
          setting(mlp(), numbers({1, 3}, 1), classifies).risk({.reduction = reduction});
      const at::Tensor expected = ggn_blocks(risk);
      BOOST_TEST(close(materialize(*kfac(risk)), expected));
      BOOST_TEST(close(materialize(*ekfac(risk)), expected));
    }
  }
}

BOOST_AUTO_TEST_CASE(one_example_makes_empirical_the_blocks_of_the_empirical_fisher) {
  for (const bool classifies : {false, true}) {
    for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
      const EmpiricalRisk risk =
          setting(mlp(), numbers({1, 3}, 1), classifies).risk({.reduction = reduction});
      const KfacOptions options{.fisher = Fisher::kEmpirical};
      const at::Tensor expected = blocks_of(empirical_fisher(risk), risk);
      BOOST_TEST(close(materialize(*kfac(risk, options)), expected));
      BOOST_TEST(close(materialize(*ekfac(risk, options)), expected));
    }
  }
}

BOOST_AUTO_TEST_CASE(monte_carlo_has_type_2_as_its_mean) {
  const EmpiricalRisk risk = setting(mlp(), numbers({1, 3}, 1), true).risk();
  const at::Tensor v = numbers({risk.space().size(), 8}, 2);
  const auto forms = [&](const OperatorPtr& a) { return (v * a->apply(v)).sum(0); };
  TensorList sample;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    sample.push_back(forms(kfac(
        risk, {.fisher = Fisher::kMonteCarlo, .mc_samples = 4, .random = RandomSource(seed)})));
  }
  // 8 forms: by chance once in 2000 runs of another seed.
  BOOST_TEST(largest_z(sample, forms(kfac(risk))) < 4);
}

BOOST_AUTO_TEST_CASE(deep_linear_nets_with_squared_error_are_exact) {
  const EmpiricalRisk risk = setting(linear_net(), numbers({7, 3}, 1)).risk();
  BOOST_TEST(close(materialize(*kfac(risk)), ggn_blocks(risk)));
  const KfacOptions empirical{.fisher = Fisher::kEmpirical};
  BOOST_TEST(distance(materialize(*kfac(risk, empirical)),
                      blocks_of(empirical_fisher(risk), risk)) > 0.05);
  const EmpiricalRisk labels = setting(linear_net(), numbers({7, 3}, 1), true).risk();
  BOOST_TEST(distance(materialize(*kfac(labels)), ggn_blocks(labels)) > 0.01);
  const EmpiricalRisk bent = setting(mlp(), numbers({7, 3}, 1)).risk();
  BOOST_TEST(distance(materialize(*kfac(bent)), ggn_blocks(bent)) > 0.01);
}

// Assertion A10.
BOOST_AUTO_TEST_CASE(piecewise_linear_nets_with_squared_error_have_the_blocks_of_the_hessian) {
  const auto net = seeded(
      Sequential(Linear(3, 4), torch::nn::ReLU(), Linear(4, 4), torch::nn::ReLU(), Linear(4, 2)),
      62);
  const EmpiricalRisk risk = setting(Model::from_module(net), numbers({1, 3}, 4)).risk();
  const at::Tensor expected = blocks_of(hessian(risk), risk);
  BOOST_TEST(expected.norm().item<double>() > 0);
  BOOST_TEST(close(materialize(*kfac(risk)), expected));
}

// Assertion A16: a layer whose inputs are Omega x and whose weights are W Omega^-1 is the same
// function, and an undamped step moves it in the same way: dW' = dW Omega^-1.
BOOST_AUTO_TEST_CASE(undamped_steps_do_not_depend_on_the_coordinates_of_the_inputs) {
  const at::Tensor w = parameter({4, 3}, 63), head = parameter({2, 4}, 64);
  const at::Tensor omega = numbers({3, 3}, 65) + 2 * at::eye(3, w.options().requires_grad(false));
  const at::Tensor inverse_omega = at::linalg_inv(omega);
  const at::Tensor moved = w.detach().matmul(inverse_omega).requires_grad_();
  const auto net = [](const at::Tensor& first, const at::Tensor& second) {
    return Model(
        [=](const TensorList& x) { return at::linear(at::linear(x[0], first).tanh(), second); },
        {{"first", first}, {"second", second}});
  };
  const at::Tensor x = numbers({20, 3}, 66);
  const Setting plain = setting(net(w, head), x);
  Setting changed = plain;
  changed.model = net(moved, head);
  changed.inputs = x.matmul(omega.t());
  const auto step = [](const Setting& problem) {
    const EmpiricalRisk risk = problem.risk();
    TensorList gradient = risk.gradient();
    for (at::Tensor& part : gradient) part = part.unsqueeze(-1);
    return kfac(risk)->inverse()->apply(gradient);
  };
  const TensorList expected = step(plain), actual = step(changed);
  BOOST_TEST(
      close(actual[0].squeeze(-1), expected[0].squeeze(-1).matmul(inverse_omega), {1e-8, 1e-8}));
  BOOST_TEST(close(actual[1], expected[1], {1e-8, 1e-8}));
}

// Assertion A24: the columns of the root of the cross-entropy's Hessian are the gradients at all
// labels, each weighed by its probability.
BOOST_AUTO_TEST_CASE(type_2_is_the_sum_over_all_labels) {
  const Setting problem = setting(mlp(), numbers({4, 3}, 1), /*classifies=*/true);
  const at::Tensor probabilities = problem.model({problem.inputs}).detach().softmax(1);
  Setting enumerated = problem;
  enumerated.inputs = problem.inputs.repeat_interleave(3, 0);
  enumerated.targets =
      at::arange(3, at::TensorOptions(at::kLong).device(test_device())).repeat({4});
  const EmpiricalRisk all_labels = enumerated.risk({}, 5, probabilities.flatten());
  BOOST_TEST(close(materialize(*kfac(all_labels, {.fisher = Fisher::kEmpirical})),
                   materialize(*kfac(problem.risk()))));
  BOOST_TEST(close(materialize(*ekfac(all_labels, {.fisher = Fisher::kEmpirical})),
                   materialize(*ekfac(problem.risk()))));
}

BOOST_AUTO_TEST_CASE(expand_is_exact_where_each_position_has_its_loss) {
  const EmpiricalRisk risk = setting(linear_net(), numbers({5, 4, 3}, 1)).risk();
  BOOST_TEST(close(materialize(*kfac(risk)), ggn_blocks(risk)));
  BOOST_TEST(distance(materialize(*kfac(risk, kReduce)), ggn_blocks(risk)) > 0.05);
}

BOOST_AUTO_TEST_CASE(reduce_is_exact_where_positions_are_pooled) {
  for (const auto& pool : {average, total}) {
    for (const Model& net : {linear_net(pool), linear_net({}, pool)}) {
      const EmpiricalRisk risk = setting(net, numbers({5, 4, 3}, 1)).risk();
      BOOST_TEST(close(materialize(*kfac(risk, kReduce)), ggn_blocks(risk)));
      BOOST_TEST(distance(materialize(*kfac(risk)), ggn_blocks(risk)) > 0.05);
    }
  }
}

BOOST_AUTO_TEST_CASE(forward_only_is_exact_on_the_last_layer_with_squared_error) {
  const EmpiricalRisk risk = setting(mlp(), numbers({6, 3}, 1)).risk();
  const at::Tensor actual = materialize(*kfac(risk, {.fisher = Fisher::kForwardOnly}));
  const at::Tensor last = ggn_blocks(risk).slice(0, 16).slice(1, 16);
  const double hessian = 2 * risk.scale() * 6;  // sums over six examples
  BOOST_TEST(close(hessian * actual.slice(0, 16).slice(1, 16), last));
}

BOOST_AUTO_TEST_CASE(convolutions_are_exact_where_theory_says_so) {
  using torch::nn::Conv2d;
  using Options = torch::nn::Conv2dOptions;
  const auto pooled = [](Sequential net, bool then_linear) {
    std::vector<NamedTensor> parameters;
    const auto head = seeded(Linear(3, 2), 62);
    for (const auto& item : net->named_parameters()) {
      parameters.push_back({item.key(), item.value()});
    }
    if (then_linear) {
      for (const auto& item : head->named_parameters()) {
        parameters.push_back({"head." + item.key(), item.value()});
      }
    }
    return Model(
        [net, head, then_linear](const TensorList& x) mutable {
          const at::Tensor y = net->forward(x[0]).mean({2, 3});
          return then_linear ? at::linear(y, head->weight, head->bias) : y;
        },
        parameters);
  };
  const at::Tensor images = numbers({4, 2, 5, 5}, 3);
  {
    const Sequential net = seeded(Sequential(Conv2d(Options(2, 3, 3))), 63);
    const EmpiricalRisk risk = setting(pooled(net, true), images).risk();
    BOOST_TEST(close(materialize(*kfac(risk, kReduce)), ggn_blocks(risk)));
    BOOST_TEST(distance(materialize(*kfac(risk)), ggn_blocks(risk)) > 0.05);
  }
  {
    const Sequential net =
        seeded(Sequential(Conv2d(Options(2, 3, 3)), Conv2d(Options(3, 2, 1))), 64);
    const EmpiricalRisk risk = setting(pooled(net, false), images).risk();
    BOOST_TEST(close(materialize(*kfac(risk, kReduce)), ggn_blocks(risk)));
    const EmpiricalRisk pixels = setting(Model::from_module(net), images, false, 1).risk();
    BOOST_TEST(close(materialize(*kfac(pixels)), ggn_blocks(pixels)));
  }
  {
    const Sequential net =
        seeded(Sequential(Conv2d(Options(2, 3, 2).stride(2)), Conv2d(Options(3, 2, 2))), 65);
    const at::Tensor larger = numbers({4, 2, 6, 6}, 3);
    const EmpiricalRisk risk = setting(pooled(net, false), larger).risk();
    BOOST_TEST(distance(materialize(*kfac(risk, kReduce)), ggn_blocks(risk)) > 0.01);
  }
}

BOOST_AUTO_TEST_CASE(ekfac_is_at_least_as_close_and_has_the_trace_of_the_ggn) {
  for (const bool classifies : {false, true}) {
    const EmpiricalRisk risk = setting(mlp(), numbers({9, 3}, 1), classifies).risk();
    const at::Tensor g = ggn_blocks(risk);
    const OperatorPtr k = kfac(risk), e = ekfac(risk);
    BOOST_TEST(distance(materialize(*e), g) < distance(materialize(*k), g));
    BOOST_TEST(*e->trace() == g.trace().item<double>(), boost::test_tools::tolerance(1e-12));
    BOOST_TEST(std::abs(*k->trace() / *e->trace() - 1) > 1e-4);
  }
}

// -------------------------------------------------------------------------------------------------
// Scaling, data, randomness

BOOST_AUTO_TEST_CASE(mean_is_sum_over_its_number_of_terms) {
  const auto check = [](const Setting& problem, double terms) {
    const EmpiricalRisk sum = problem.risk({.reduction = Reduction::kSum}), mean = problem.risk();
    for (const Fisher fisher : {Fisher::kType2, Fisher::kMonteCarlo, Fisher::kEmpirical}) {
      const KfacOptions options{.fisher = fisher};
      BOOST_TEST(
          close(terms * materialize(*kfac(mean, options)), materialize(*kfac(sum, options))));
      BOOST_TEST(
          close(terms * materialize(*ekfac(mean, options)), materialize(*ekfac(sum, options))));
    }
  };
  check(setting(mlp(), numbers({7, 3}, 1), true), 7);
  check(setting(mlp(), numbers({7, 3}, 1)), 7 * 3);
  check(setting(mlp(), numbers({4, 5, 3}, 1), true), 4 * 5);
}

BOOST_AUTO_TEST_CASE(order_of_examples_and_precision_do_not_matter) {
  const Setting problem = setting(mlp(), numbers({7, 3}, 1), true);
  const at::Tensor order = at::tensor({3, 1, 6, 0, 2, 5, 4}, at::kLong);
  Setting shuffled = problem;
  shuffled.inputs = problem.inputs.index_select(0, order);
  shuffled.targets = problem.targets.index_select(0, order);
  BOOST_TEST(close(materialize(*kfac(shuffled.risk())), materialize(*kfac(problem.risk()))));
  BOOST_TEST(close(materialize(*ekfac(shuffled.risk())), materialize(*ekfac(problem.risk()))));

  auto net = seeded(Sequential(Linear(3, 4), torch::nn::Tanh(), Linear(4, 3)), 60);
  net->to(at::kFloat);
  const Setting single{Model::from_module(net), problem.inputs.to(at::kFloat), problem.targets,
                       true};
  BOOST_TEST(distance(materialize(*kfac(single.risk())).to(at::kDouble),
                      materialize(*kfac(problem.risk()))) < 1e-5);
  BOOST_TEST(distance(materialize(*ekfac(single.risk())).to(at::kDouble),
                      materialize(*ekfac(problem.risk()))) < 1e-4);
}

BOOST_AUTO_TEST_CASE(weights_count_examples) {
  const Setting once = setting(mlp(), numbers({5, 3}, 1), true);
  const at::Tensor index = at::tensor({0, 0, 1, 2, 2, 2, 4}, at::kLong);
  Setting repeated = once;
  repeated.inputs = once.inputs.index_select(0, index);
  repeated.targets = once.targets.index_select(0, index);
  const at::Tensor weights = at::tensor({2.0, 1.0, 3.0, 0.0, 1.0});
  for (const Fisher fisher : {Fisher::kType2, Fisher::kEmpirical}) {
    const KfacOptions options{.fisher = fisher};
    const EmpiricalRisk weighted = once.risk({}, 2, weights), plain = repeated.risk();
    BOOST_TEST(close(materialize(*kfac(weighted, options)), materialize(*kfac(plain, options))));
    BOOST_TEST(close(materialize(*ekfac(weighted, options)), materialize(*ekfac(plain, options))));
  }
}

BOOST_AUTO_TEST_CASE(random_signs_cancel_cross_terms_in_the_mean) {
  // Positions are mixed before the loss. With reduce, a bias's block is sum g g^T over terms and
  // outputs of the gradient itself: the GGN's.
  const at::Tensor mixing = numbers({4, 4}, 5);
  const Setting problem =
      setting(linear_net([=](const at::Tensor& h) { return mixing.matmul(h.tanh()); }),
              numbers({5, 4, 3}, 1));
  const EmpiricalRisk risk = problem.risk();
  const auto bias_block = [](const at::Tensor& dense) {
    return dense.slice(0, 12, 16).slice(1, 12, 16).reshape(-1);
  };
  TensorList sample;
  for (uint64_t seed = 0; seed < 300; ++seed) {
    sample.push_back(bias_block(materialize(*kfac(risk, {.weight_sharing = WeightSharing::kReduce,
                                                         .separate_bias = true,
                                                         .random = RandomSource(seed)}))));
  }
  // 10 distinct entries: by chance once in 1000 runs of other seeds.
  BOOST_TEST(largest_z(sample, bias_block(materialize(*ggn(risk)))) < 4);
  BOOST_TEST(distance(sample[0], sample[1]) > 1e-3);

  for (const Fisher fisher : {Fisher::kType2, Fisher::kMonteCarlo}) {
    const KfacOptions options{.fisher = fisher, .random = RandomSource(3)};
    const at::Tensor all = materialize(*kfac(problem.risk({}, 5), options));
    BOOST_TEST(at::equal(materialize(*kfac(problem.risk({}, 5), options)), all));
    for (const int64_t batch_size : {1, 2, 4}) {
      BOOST_TEST(close(materialize(*kfac(problem.risk({}, batch_size), options)), all));
    }
  }
}

// -------------------------------------------------------------------------------------------------
// Operators

BOOST_AUTO_TEST_CASE(operators_keep_the_laws_and_closed_forms) {
  for (const bool classifies : {false, true}) {
    const EmpiricalRisk risk = setting(mlp(), numbers({9, 3}, 1), classifies).risk();
    for (const bool separate : {false, true}) {
      const KfacOptions options{.separate_bias = separate};
      for (const OperatorPtr& a : {kfac(risk, options), ekfac(risk, options)}) {
        const at::Tensor dense = materialize(*a);
        check_operator_laws(*a, dense);
        const OperatorPtr damped = shifted(a, 0.01);
        const at::Tensor eye = at::eye(dense.size(0), dense.options());
        const at::Tensor inverse_matrix = materialize(*inverse(damped));
        BOOST_TEST(close(inverse_matrix.mm(dense + 0.01 * eye), eye, {1e-10, 1e-10}));
        BOOST_TEST(*damped->trace() == (dense.trace() + 0.01 * eye.trace()).item<double>(),
                   boost::test_tools::tolerance(1e-12));
        // Damping touches no stored factor.
        BOOST_TEST(at::equal(materialize(*a), dense));
        const at::Tensor root = materialize(*pow(damped, 0.5));
        BOOST_TEST(close(root.mm(root), dense + 0.01 * eye));
        BOOST_TEST(close(materialize(*pow(damped, -1)), inverse_matrix));
        const at::Tensor values = std::get<0>(damped->eigenvalues()->sort());
        BOOST_TEST(close(values, at::linalg_eigvalsh(dense + 0.01 * eye)));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(grouped_and_transposed_blocks_keep_the_laws) {
  const auto net = seeded(Sequential(torch::nn::Conv1d(torch::nn::Conv1dOptions(4, 4, 2).groups(2)),
                                     torch::nn::Tanh(), torch::nn::Flatten(), Linear(12, 2)),
                          66);
  const EmpiricalRisk convolution = setting(Model::from_module(net), numbers({6, 4, 4}, 4)).risk();
  const at::Tensor table = parameter({5, 3}, 6), w = parameter({3, 2}, 7), c = parameter({2}, 8);
  const Model tokens(
      [=](const TensorList& x) { return at::embedding(table, x[0]).tanh().matmul(w) + c; },
      {{"table", table}, {"w", w}, {"c", c}, {"spare", parameter({2}, 9)}});
  const EmpiricalRisk embedding =
      setting(tokens, ((numbers({6, 4}, 10) + 1) * 2.5).floor().to(at::kLong)).risk();
  for (const EmpiricalRisk& risk : {convolution, embedding}) {
    for (const OperatorPtr& a : {kfac(risk), ekfac(risk)}) {
      check_operator_laws(*a, materialize(*a));
      const OperatorPtr damped = shifted(a, 0.1);
      check_operator_laws(*inverse(damped), at::linalg_inv(materialize(*damped)));
    }
  }
}

BOOST_AUTO_TEST_CASE(order_and_choice_of_parameters_leave_blocks_alone) {
  const Setting problem = setting(mlp(), numbers({7, 3}, 1), true);
  const EmpiricalRisk all = problem.risk();
  const EmpiricalRisk turned =
      problem.risk({.parameters = {"2.bias", "0.weight", "2.weight", "0.bias"}});
  const EmpiricalRisk last = problem.risk({.parameters = {"2.*"}});
  for (const auto& make : {kfac, ekfac}) {
    const OperatorPtr a = make(all, {}), b = make(turned, {});
    const at::Tensor x = numbers({all.space().size()}, 11);
    const TensorList parts = all.space().split(x.unsqueeze(1));
    const TensorList expected = all.space().split(a->apply(x).unsqueeze(1));
    const TensorList actual = b->apply(TensorList{parts[3], parts[0], parts[2], parts[1]});
    BOOST_TEST(close(actual[0], expected[3]));
    BOOST_TEST(close(actual[1], expected[0]));
    BOOST_TEST(close(actual[2], expected[2]));
    BOOST_TEST(close(actual[3], expected[1]));
    BOOST_TEST(close(materialize(*make(last, {})), materialize(*a).slice(0, 16).slice(1, 16)));
  }
  const at::Tensor joint = materialize(*kfac(all)),
                   separate = materialize(*kfac(all, {.separate_bias = true}));
  BOOST_TEST(close(separate, keep_blocks(joint, all.space(), /*by_layer=*/false)));
}

BOOST_AUTO_TEST_CASE(torchscript_has_the_layers_of_the_same_function) {
  const TemporaryFile file;
  torch::jit::Module module("Net");
  const at::Tensor w = parameter({4, 3}, 12), b = parameter({4}, 13), v = parameter({2, 4}, 14);
  module.register_parameter("w", w, false);
  module.register_parameter("b", b, false);
  module.register_parameter("v", v, false);
  module.define(R"(
def forward(self, x):
    h = torch.addmm(self.b, x, self.w.t())
    return torch.matmul(torch.tanh_(h), self.v.t())
)");
  module.save(file.path);
  const Model script = load_torchscript(file.path);
  const Model same([=](const TensorList& x) { return at::linear(x[0], w, b).tanh().matmul(v.t()); },
                   {{"w", w}, {"b", b}, {"v", v}});
  const at::Tensor x = numbers({6, 3}, 15);
  for (const auto& make : {kfac, ekfac}) {
    const at::Tensor expected = materialize(*make(setting(same, x, true).risk(), {}));
    for (int run = 0; run < 3; ++run) {  // the executor may optimise later runs
      BOOST_TEST(close(materialize(*make(setting(script, x, true).risk(), {})), expected));
    }
  }
}

// -------------------------------------------------------------------------------------------------
// What no rule covers

BOOST_AUTO_TEST_CASE(fallbacks_serve_what_no_rule_covers) {
  const at::Tensor w = parameter({3, 3}, 16), c = parameter({3}, 17);
  const Model model([=](const TensorList& x) { return at::linear(x[0], w.exp(), c).tanh(); },
                    {{"odd", w}, {"c", c}});
  const Setting problem = setting(model, numbers({6, 3}, 18));
  for (const double decay : {0.0, 0.3}) {  // never in a layer-wise curvature
    const EmpiricalRisk risk = problem.risk({.weight_decay = decay});
    BOOST_CHECK_EXCEPTION(kfac(risk), NotSupportedError, [](const Error& error) {
      const std::string what = error.what();
      return what.find("'odd'") != std::string::npos && what.find("aten::exp") != std::string::npos;
    });
    const at::Tensor exact = materialize(*ggn(problem.risk())).slice(0, 0, 9).slice(1, 0, 9);
    for (const auto& make : {kfac, ekfac}) {
      const at::Tensor block = materialize(*make(risk, {.fallback = Fallback::kBlock}));
      BOOST_TEST(close(block.slice(0, 0, 9).slice(1, 0, 9), exact));
      const at::Tensor diagonal = materialize(*make(risk, {.fallback = Fallback::kDiagonal}));
      BOOST_TEST(close(diagonal.slice(0, 0, 9).slice(1, 0, 9), at::diag(exact.diagonal())));
      for (const at::Tensor& dense : {block, diagonal}) {
        BOOST_TEST(dense.slice(0, 9).slice(1, 0, 9).abs().max().item<double>() == 0);
        BOOST_TEST(dense.slice(0, 9).slice(1, 9).norm().item<double>() > 0);
      }
      const OperatorPtr a = make(risk, {.fallback = Fallback::kBlock});
      check_operator_laws(*a, materialize(*a));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_bias_of_an_uncovered_weight_has_a_fallback_as_well) {
  const at::Tensor w = parameter({3, 3}, 19), c = parameter({3}, 20);
  const Model model(  // w both ways
      [=](const TensorList& x) { return at::linear(at::linear(x[0], w, c).tanh(), w.t()); },
      {{"w", w}, {"c", c}});
  const EmpiricalRisk risk = setting(model, numbers({6, 3}, 21)).risk();
  const at::Tensor expected = keep_blocks(materialize(*ggn(risk)), risk.space(), false);
  BOOST_TEST(close(materialize(*kfac(risk, {.fallback = Fallback::kBlock})), expected));
}

BOOST_AUTO_TEST_CASE(options_that_make_no_sense_are_refused) {
  const EmpiricalRisk risk = setting(mlp(), numbers({4, 3}, 1)).risk();
  BOOST_CHECK_THROW(kfac(risk, {.mc_samples = 0}), OptionError);
  BOOST_CHECK_THROW(ekfac(risk, {.fisher = Fisher::kForwardOnly}), OptionError);
}

BOOST_AUTO_TEST_CASE(weights_of_a_model_are_left_alone) {
  const Setting problem = setting(mlp(), numbers({4, 3}, 1));
  const EmpiricalRisk risk = problem.risk();
  const auto versions = risk.versions();
  kfac(risk);
  ekfac(risk);
  describe_layers(risk);
  BOOST_TEST(risk.versions() == versions, boost::test_tools::per_element());
  for (const at::Tensor& parameter : risk.parameters()) BOOST_TEST(!parameter.grad().defined());
  const at::NoGradGuard no_grad;  // as callers may have it
  BOOST_TEST(close(materialize(*kfac(risk)), materialize(*kfac(problem.risk()))));
}

BOOST_AUTO_TEST_SUITE_END()
