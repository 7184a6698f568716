// SINGD against its formulas spelled out with dense matrices.
#include <cmath>

#include "optim/projection.hpp"
#include "optim/singd.hpp"

BOOST_AUTO_TEST_SUITE(singd_formulas_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

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

BOOST_AUTO_TEST_SUITE_END()
