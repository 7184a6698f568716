// SINGD against its formulas spelled out with dense matrices, and against the inverses it learns.
#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/core/structure.hpp>
#include <curvature/layerwise/damping.hpp>
#include <curvature/layerwise/kfac_estimator.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/optim/singd.hpp>

#include "optim/projection.hpp"
#include "optim/small_problems.hpp"
#include "support/optimizer_laws.hpp"

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

const std::vector<FactorStructure> kStructures = {
    FactorStructure::kDense,           FactorStructure::kDiagonal,
    FactorStructure::kBlockDiagonal,   FactorStructure::kLowerTriangular,
    FactorStructure::kUpperTriangular, FactorStructure::kLowerToeplitz,
    FactorStructure::kUpperToeplitz,   FactorStructure::kHierarchical};

StructureOptions small(FactorStructure kind) {
  return {.kind = kind, .block_size = 2, .top = 1, .bottom = 1};
}

at::Tensor eye_like(const at::Tensor& a) { return at::eye(a.size(0), a.options()); }
double mean_eigenvalue(const at::Tensor& a) {
  return a.trace().item<double>() / static_cast<double>(a.size(0));
}
at::Tensor outer(const at::Tensor& k) { return k.mm(k.t()); }

at::Tensor factor(const Minimizer& minimizer, const std::string& name) {
  return minimizer.save().tensors.at("factors/" + name);
}

/// Two workers that hold the same examples.
class HeldTwice final : public Reducer {
 public:
  void sum(TensorList& contributions) const override {
    for (at::Tensor& tensor : contributions) tensor = 2 * tensor;
  }
};

/// A minimizer that only learns its factors, `steps` times, then takes one whole step.
at::Tensor step_after(int steps, const EmpiricalRisk& risk, SingdOptions options) {
  options.learning_rate = 0;
  options.momentum = 0;
  options.refresh_interval = 1;
  const auto minimizer = singd(risk, options);
  for (int step = 0; step < steps; ++step) minimizer->step(risk);
  minimizer->set_learning_rate(1);
  const at::Tensor before = parameters_of(risk);
  minimizer->step(risk);
  return parameters_of(risk) - before;
}

/// Settings under which the factors find their fixed point fast.
SingdOptions eager(double damping = 0.1, Fisher fisher = Fisher::kEmpirical) {
  return {.damping = damping, .preconditioner_rate = 0.5, .alpha1 = 0, .fisher = fisher};
}

at::Tensor step_by(const EmpiricalRisk& risk, const OperatorPtr& curvature) {
  return -at::linalg_solve(materialize(*curvature), gradient_of(risk));
}

/// K-FAC's factors of the layer of a linear model.
std::pair<at::Tensor, at::Tensor> kfac_factors(const OperatorPtr& layers, size_t block) {
  const Structure structure = layers->structure();
  const Structure inner = std::get<PartitionStructure>(structure).blocks.at(block)->structure();
  const auto& product = std::get<KroneckerStructure>(inner);
  return {product.factors.at(1), product.factors.at(0)};
}

/// One layer of the reference: everything dense.
struct DenseLayer {
  at::Tensor w;  ///< [W | b]
  at::Tensor k, c, m_k, m_c, m;

  explicit DenseLayer(const torch::nn::Linear& layer)
      : w(at::cat({layer->weight.detach(), layer->bias.detach().unsqueeze(1)}, 1).clone()),
        k(at::eye(w.size(1), w.options())),
        c(at::eye(w.size(0), w.options())),
        m_k(at::zeros_like(k)),
        m_c(at::zeros_like(c)),
        m(at::zeros_like(w)) {}
};

/// Two layers with tanh between them, squared error, empirical Fisher: backpropagation and the
/// formulas (3.1) to (3.3) of the method by hand.
struct Reference {
  SingdOptions options;
  double weight_decay;
  std::vector<DenseLayer> layers;
  int64_t steps = 0;

  void refresh(DenseLayer& layer, const at::Tensor& a, const at::Tensor& b) const {
    const double damping = options.damping + weight_decay;
    const at::Tensor h_k = projected(layer.k.t().mm(a).mm(layer.k), options.input_structure);
    const at::Tensor h_c = projected(layer.c.t().mm(b).mm(layer.c), options.output_structure);
    const at::Tensor k_k = projected(layer.k.t().mm(layer.k), options.input_structure);
    const at::Tensor c_c = projected(layer.c.t().mm(layer.c), options.output_structure);
    const bool apart = options.kfac_like, average = options.rate_bound != RateBound::kNone;
    const double weight = average ? (1 - options.alpha1) / 2 : 0.5;
    const at::Tensor step_k =
        (apart ? 1 : mean_eigenvalue(h_c)) * h_k +
        damping * (apart ? 1 : mean_eigenvalue(layer.c.t().mm(layer.c))) * k_k - eye_like(k_k);
    const at::Tensor step_c =
        (apart ? 1 : mean_eigenvalue(h_k)) * h_c +
        damping * (apart ? 1 : mean_eigenvalue(layer.k.t().mm(layer.k))) * c_c - eye_like(c_c);
    layer.m_k = options.alpha1 * layer.m_k + weight * step_k;
    layer.m_c = options.alpha1 * layer.m_c + weight * step_c;
    layer.k = layer.k.mm(eye_like(layer.k) - rate(layer.m_k) * layer.m_k);
    layer.c = layer.c.mm(eye_like(layer.c) - rate(layer.m_c) * layer.m_c);
  }

  double rate(const at::Tensor& m) const {
    double norm = 1;
    if (options.rate_bound == RateBound::kFrobenius) norm = m.norm().item<double>();
    if (options.rate_bound == RateBound::kLargestEntry) norm = m.abs().max().item<double>();
    return options.preconditioner_rate / std::max(1.0, norm);
  }

  void step(const at::Tensor& x, const at::Tensor& y) {
    const auto with_ones = [](const at::Tensor& rows) {
      return at::cat({rows, at::ones({rows.size(0), 1}, rows.options())}, 1);
    };
    const double count = static_cast<double>(x.size(0)), scale = 1 / static_cast<double>(y.numel());
    const at::Tensor first = with_ones(x);
    const at::Tensor hidden = first.mm(layers[0].w.t()).tanh();
    const at::Tensor second = with_ones(hidden);
    const at::Tensor g2 = 2 * (second.mm(layers[1].w.t()) - y);
    const at::Tensor g1 = g2.mm(layers[1].w.narrow(1, 0, 4)) * (1 - hidden.square());
    const TensorList inputs = {first, second}, gradients = {g1, g2};
    for (size_t i = 0; i < 2; ++i) {
      DenseLayer& layer = layers[i];
      if (steps % options.refresh_interval == 0) {
        refresh(layer, inputs[i].t().mm(inputs[i]) / count,
                scale * gradients[i].t().mm(gradients[i]));
      }
      const at::Tensor g = scale * gradients[i].t().mm(inputs[i]) + weight_decay * layer.w;
      layer.m = options.momentum * layer.m + outer(layer.c).mm(g).mm(outer(layer.k));
      layer.w = layer.w - options.learning_rate * layer.m;
    }
    ++steps;
  }

  at::Tensor parameters() const {
    TensorList parts;
    for (const DenseLayer& layer : layers) {
      const int64_t n = layer.w.size(1) - 1;
      parts.push_back(layer.w.narrow(1, 0, n).reshape(-1));
      parts.push_back(layer.w.select(1, n));
    }
    return at::cat(parts);
  }
};

/// How far the optimizer is from the formulas after some steps on changing batches.
double distance_from_reference(const SingdOptions& options, double weight_decay) {
  const auto net = two_layers(false);
  const EmpiricalRisk risk = regression(net, {.weight_decay = weight_decay});
  Reference reference{options, weight_decay, {}};
  for (const size_t i : {0, 2}) {
    reference.layers.emplace_back(torch::nn::Linear(net->ptr<torch::nn::LinearImpl>(i)));
  }
  const Batch all = risk.data().batch(0);
  const auto minimizer = singd(risk, options);
  for (int64_t step = 0; step < 7; ++step) {
    const int64_t first = step % 3, count = 6;
    const at::Tensor x = all.inputs[0].narrow(0, first, count),
                     y = all.targets.narrow(0, first, count);
    reference.step(x, y);
    minimizer->step(risk.with_data(tensor_dataset({x}, y, 4)));  // in two parts
  }
  const at::Tensor expected = reference.parameters();
  return ((parameters_of(risk) - expected).norm() / expected.norm()).item<double>();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(singd_test)

BOOST_AUTO_TEST_CASE(members_of_the_family_are_minimizers) {
  const auto check = [](SingdOptions options, const MinimizerLaws& laws) {
    options.damping = 1e-2;
    options.fisher = Fisher::kType2;
    options.alpha1 = 0.2;
    options.preconditioner_rate = 0.3;
    check_minimizer_laws([options](const EmpiricalRisk& risk) { return singd(risk, options); },
                         laws);
  };
  check({.learning_rate = 0.3, .momentum = 0.5, .refresh_interval = 2}, {.steps = 200});
  check({.learning_rate = 0.3,
         .momentum = 0,
         .kfac_like = true,
         .refresh_interval = 1,
         .input_structure = small(FactorStructure::kHierarchical),
         .output_structure = small(FactorStructure::kLowerTriangular)},
        {.steps = 300});
  check({.learning_rate = 0.1,
         .momentum = 0.5,
         .refresh_interval = 3,
         .input_structure = small(FactorStructure::kUpperToeplitz),
         .output_structure = small(FactorStructure::kDiagonal),
         .dtype = at::kBFloat16,
         .separate_bias = true},
        {.steps = 600});
}

BOOST_AUTO_TEST_CASE(steps_are_those_of_the_formulas_for_every_structure) {
  for (const FactorStructure inputs : kStructures) {
    for (const FactorStructure outputs : kStructures) {
      for (const bool kfac_like : {false, true}) {
        const SingdOptions options{.learning_rate = 0.05,
                                   .momentum = 0.6,
                                   .damping = 0.02,
                                   .preconditioner_rate = 0.2,
                                   .alpha1 = 0.4,
                                   .kfac_like = kfac_like,
                                   .refresh_interval = 2,
                                   .input_structure = small(inputs),
                                   .output_structure = small(outputs)};
        BOOST_TEST(distance_from_reference(options, 0.1) < 1e-12);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(rates_are_bounded_as_asked) {
  // Directions of more than norm 1, so that bounds bind.
  for (const RateBound bound :
       {RateBound::kFrobenius, RateBound::kLargestEntry, RateBound::kNone}) {
    const SingdOptions options{.learning_rate = 0.02,
                               .damping = 4,
                               .preconditioner_rate = 0.02,
                               .rate_bound = bound,
                               .refresh_interval = 1};
    BOOST_TEST(distance_from_reference(options, 0) < 1e-12);
    for (const RateBound other :
         {RateBound::kFrobenius, RateBound::kLargestEntry, RateBound::kNone}) {
      const EmpiricalRisk a = regression(two_layers(false)), b = regression(two_layers(false));
      SingdOptions others = options;
      others.rate_bound = other;
      singd(a, options)->step(a);
      singd(b, others)->step(b);
      BOOST_TEST(at::equal(parameters_of(a), parameters_of(b)) == (bound == other));
    }
  }
}

BOOST_AUTO_TEST_CASE(ikfac_tracks_the_inverse_of_a_decaying_average) {
  // From an S that is no multiple of I: K' K'^T = ((1 - b) S + b (A + damping I))^-1 + O(b^2).
  const EmpiricalRisk risk = regression(two_layers(false));
  const auto [a, b] = kfac_factors(kfac(risk, {.fisher = Fisher::kEmpirical}), 0);
  SingdOptions options = eager(0.3);
  options.learning_rate = 0;
  options.kfac_like = true;
  options.refresh_interval = 1;
  const auto start = singd(risk, options);
  for (int step = 0; step < 3; ++step) start->step(risk);
  const auto error_of = [&](double rate, const char* name, const at::Tensor& moment) {
    options.preconditioner_rate = rate;
    const auto minimizer = singd(risk, options);
    minimizer->load(start->save());
    const at::Tensor s = outer(factor(*minimizer, name)).inverse();
    minimizer->step(risk);
    const at::Tensor average = (1 - rate) * s + rate * (moment + 0.3 * eye_like(moment));
    return (outer(factor(*minimizer, name)) - average.inverse()).norm().item<double>();
  };
  for (const auto& [name, moment] :
       {std::pair("0.weight/input_0", a), std::pair("0.weight/output_0", b)}) {
    const double coarse = error_of(1e-2, name, moment), fine = error_of(1e-3, name, moment),
                 finest = error_of(1e-4, name, moment);
    BOOST_TEST(coarse > 1e-7);
    BOOST_TEST(coarse / fine == 100, boost::test_tools::tolerance(0.05));
    BOOST_TEST(fine / finest == 100, boost::test_tools::tolerance(0.05));
  }
}

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

BOOST_AUTO_TEST_CASE(draws_are_told_apart_by_the_number_of_examples_seen) {
  const EmpiricalRisk risk = regression(two_layers(false));
  const KfacOptions layers{.fisher = Fisher::kMonteCarlo, .mc_samples = 2};
  SingdOptions options = eager(0.1, Fisher::kMonteCarlo);
  options.mc_samples = 2;
  options.kfac_like = true;
  options.learning_rate = 0;
  options.refresh_interval = 1;
  const auto minimizer = singd(risk, options);
  for (const int64_t seen : {0, 9, 18}) {
    at::Tensor c = at::eye(4, parameters_of(risk).options());
    if (seen > 0) c = factor(*minimizer, "0.weight/output_0");
    minimizer->step(risk);
    KfacEstimator estimator(risk, layers);
    estimator.update(risk, seen);
    const at::Tensor b = kfac_factors(estimator.kfac(), 0).second;
    const at::Tensor expected = (c.t().mm(b + 0.1 * eye_like(b)).mm(c) - eye_like(b)) / 2;
    BOOST_TEST(close(factor(*minimizer, "0.weight/output_direction_0"), expected, {1e-10}));
  }
}

BOOST_AUTO_TEST_CASE(weights_of_examples_count_them) {
  // An example of weight 2 is two examples; sums over half of the data are half of the mean.
  const auto step = [](const at::Tensor& rows, const at::Tensor& weights, Reduction reduction,
                       double damping) {
    const EmpiricalRisk risk = regression(two_layers(false), {.reduction = reduction});
    const Batch all = risk.data().batch(0);
    const at::Tensor x = all.inputs[0].index_select(0, rows), y = all.targets.index_select(0, rows);
    SingdOptions options = eager(damping);
    options.refresh_interval = 1;
    options.learning_rate = reduction == Reduction::kSum ? 1.0 / 6 : 1;
    const auto minimizer = singd(risk, options);
    minimizer->step(risk.with_data(batch_dataset({{{x}, y, weights}})));
    return parameters_of(risk);
  };
  const at::Tensor rows = at::tensor({0, 4, 7}).to(test_device()),
                   again = at::tensor({0, 4, 4, 7}).to(test_device());
  const at::Tensor weights = at::tensor({1, 2, 1}).to(test_device(), at::kDouble);
  BOOST_TEST(
      close(step(rows, weights, Reduction::kMean, 0.1), step(again, {}, Reduction::kMean, 0.1)));
  BOOST_TEST(
      close(step(rows, weights, Reduction::kSum, 0.1), step(again, {}, Reduction::kSum, 0.1)));
}

BOOST_AUTO_TEST_CASE(workers_add_up_what_they_see) {
  // Two workers with the same examples see what one sees that has them twice.
  const auto steps = [](bool workers, SingdOptions options) {
    const torch::nn::Sequential net(torch::nn::Embedding(4, 3), torch::nn::Tanh(),
                                    torch::nn::Flatten(), torch::nn::Linear(6, 2));
    at::Tensor tokens = at::tensor({0, 1, 2, 3, 3, 1, 2, 2, 0, 3}).view({5, 2}).to(test_device());
    at::Tensor targets = numbers({5, 2}, 2);
    if (!workers) {
      tokens = at::cat({tokens, tokens});
      targets = at::cat({targets, targets});
    }
    const EmpiricalRisk risk(
        Model::from_module(seeded(net, 3)), mean_squared_error(),
        tensor_dataset({tokens}, targets, 5),
        {.reducer = workers ? std::make_shared<HeldTwice>() : std::shared_ptr<HeldTwice>()});
    options.refresh_interval = 1;
    options.learning_rate = 0.1;
    const auto minimizer = singd(risk, options);
    for (int step = 0; step < 3; ++step) minimizer->step(risk);
    return parameters_of(risk);
  };
  for (const Fisher fisher : {Fisher::kEmpirical, Fisher::kForwardOnly}) {
    BOOST_TEST(close(steps(true, eager(0.1, fisher)), steps(false, eager(0.1, fisher))));
  }
}

BOOST_AUTO_TEST_CASE(a_layer_that_a_batch_does_not_use_keeps_its_factors) {
  // An expert for positive first inputs; its part of the output is whole or missing.
  const at::Tensor common = numbers({3, 2}, 5).requires_grad_();
  const at::Tensor expert = numbers({3, 2}, 6).requires_grad_();
  const at::Tensor inputs = numbers({8, 3}, 1).abs() + 0.1, targets = numbers({8, 2}, 2);
  const auto forward = [=](const TensorList& x) {
    const at::Tensor output = x[0].matmul(common);
    const at::Tensor chosen = x[0].select(1, 0).gt(0);
    if (!chosen.any().item<bool>()) return output;
    return output + (x[0] * chosen.unsqueeze(1)).matmul(expert);
  };
  const EmpiricalRisk risk(Model(forward, {{"common", common}, {"expert", expert}}),
                           mean_squared_error(), tensor_dataset({inputs}, targets, 8));
  SingdOptions options = eager();
  options.refresh_interval = 1;
  const auto minimizer = singd(risk, options);
  minimizer->step(risk);
  const auto factors = [&](const std::string& name) {
    return TensorList{factor(*minimizer, name + "/input_0"), factor(*minimizer, name + "/output_0"),
                      factor(*minimizer, name + "/output_direction_0")};
  };
  const TensorList of_common = factors("common"), of_expert = factors("expert");
  minimizer->step(risk.with_data(tensor_dataset({-inputs}, targets, 8)));
  for (size_t i = 0; i < 3; ++i) {
    BOOST_TEST(!at::equal(factors("common")[i], of_common[i]));
    BOOST_TEST(at::equal(factors("expert")[i], of_expert[i]));
  }
}

BOOST_AUTO_TEST_CASE(structures_are_kept_and_counted) {
  for (const FactorStructure kind : kStructures) {
    for (const at::ScalarType dtype : {at::kDouble, at::kFloat, at::kBFloat16}) {
      const EmpiricalRisk risk = regression(two_layers(false));
      const auto minimizer = singd(risk, {.refresh_interval = 1,
                                          .input_structure = small(kind),
                                          .output_structure = small(kind),
                                          .dtype = dtype});
      const int64_t bytes = minimizer->state_bytes();
      for (int step = 0; step < 5; ++step) minimizer->step(risk);
      int64_t of_factors = 0, of_momentum = 0;
      for (const auto& [name, tensor] : minimizer->save().tensors) {
        const auto size = static_cast<int64_t>(tensor.nbytes());
        if (name.starts_with("momentum/")) of_momentum += size;
        if (!name.starts_with("factors/")) continue;
        of_factors += size;
        BOOST_TEST(tensor.scalar_type() == dtype);
      }
      // Beside K and its directions K K^T, where K is one matrix in the parameters' dtype.
      const bool one_matrix = kind == FactorStructure::kDense ||
                              kind == FactorStructure::kLowerTriangular ||
                              kind == FactorStructure::kUpperTriangular;
      const bool keeps_outer = one_matrix && dtype == at::kDouble;
      BOOST_TEST(bytes == of_momentum + of_factors + (keeps_outer ? of_factors / 2 : 0));
      const at::Tensor k = factor(*minimizer, "2.weight/input_0");
      if (kind == FactorStructure::kLowerTriangular) BOOST_TEST(at::equal(k, k.tril()));
      if (kind == FactorStructure::kUpperTriangular) BOOST_TEST(at::equal(k, k.triu()));
    }
  }
}

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

BOOST_AUTO_TEST_CASE(wrong_options_and_states_are_refused) {
  const EmpiricalRisk risk = regression(two_layers(false));
  const auto refused = [&](auto change) {
    SingdOptions options;
    change(options);
    BOOST_CHECK_THROW(singd(risk, options), OptionError);
  };
  refused([](auto& options) { options.learning_rate = -1; });
  refused([](auto& options) { options.momentum = 1; });
  refused([](auto& options) { options.damping = -1; });
  refused([](auto& options) { options.preconditioner_rate = 0; });
  refused([](auto& options) { options.preconditioner_rate = 1; });
  refused([](auto& options) { options.alpha1 = 1; });
  refused([](auto& options) { options.refresh_interval = 0; });
  refused([](auto& options) { options.input_structure.top = 0; });
  refused([](auto& options) { options.output_structure.block_size = 0; });
  refused([](auto& options) { options.dtype = at::kHalf; });
  refused([](auto& options) { options.mc_samples = 0; });

  const auto dense = singd(risk);
  dense->step(risk);
  BOOST_CHECK_THROW(singd(risk, {.dtype = at::kBFloat16})->load(dense->save()), DataError);
  BOOST_CHECK_THROW(
      singd(risk, {.input_structure = small(FactorStructure::kBlockDiagonal)})->load(dense->save()),
      DataError);
  BOOST_CHECK_THROW(singd(risk, {.separate_bias = true})->load(dense->save()), DataError);
}

BOOST_AUTO_TEST_CASE(what_is_out_of_range_is_refused_and_changes_nothing) {
  auto net = seeded(torch::nn::Sequential(torch::nn::Linear(3, 2)), 5);
  net->to(at::kFloat);
  const EmpiricalRisk risk(
      Model::from_module(net), mean_squared_error(),
      tensor_dataset({numbers({9, 3}, 1).to(at::kFloat)}, numbers({9, 2}, 2).to(at::kFloat), 9));
  const auto refused = [&](const SingdOptions& options, int steps) {
    const auto minimizer = singd(risk, options);
    for (int step = 0; step < steps; ++step) minimizer->step(risk);
    const at::Tensor before = parameters_of(risk);
    const Archive state = minimizer->save();
    BOOST_CHECK_EXCEPTION(minimizer->step(risk), NumericalError, [](const Error& error) {
      return std::string(error.what()).find("'0.weight'") != std::string::npos;
    });
    BOOST_TEST(at::equal(parameters_of(risk), before));
    const Archive after = minimizer->save();
    BOOST_TEST(state.tensors.size() == after.tensors.size());
    for (const auto& [name, tensor] : state.tensors) {
      BOOST_TEST(at::equal(tensor, after.tensors.at(name)));
    }
  };
  // More than float32 holds; and without bound a rate that squares K again and again.
  refused({.damping = 1e39}, 0);
  refused({.learning_rate = 0,
           .momentum = 0,
           .damping = 1e12,
           .rate_bound = RateBound::kNone,
           .kfac_like = true,
           .refresh_interval = 1},
          1);
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
