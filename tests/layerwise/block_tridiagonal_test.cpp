#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/layerwise/block_tridiagonal.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/algebra.hpp>

#include "layerwise/reference.hpp"
#include "support/operator_laws.hpp"

BOOST_AUTO_TEST_SUITE(block_tridiagonal_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

using Activation = std::function<at::Tensor(const at::Tensor&)>;

/// Linear layers of given widths with an activation between, and seven examples.
struct Chain {
  explicit Chain(
      const std::vector<int64_t>& widths, bool has_labels = false,
      Activation between = [](const at::Tensor& x) { return x.tanh(); }, int64_t num_examples = 7)
      : activation(std::move(between)), classifies(has_labels) {
    for (size_t i = 0; i + 1 < widths.size(); ++i) {
      const auto number = std::to_string(i);
      parameters.push_back({"w" + number, parameter({widths[i + 1], widths[i]}, 10 + i)});
      parameters.push_back({"b" + number, parameter({widths[i + 1]}, 20 + i)});
    }
    inputs = numbers({num_examples, widths.front()}, 1);
    targets = numbers({num_examples, widths.back()}, 2);
    if (classifies) targets = targets.argmax(1);
  }

  size_t num_layers() const { return parameters.size() / 2; }
  const at::Tensor& w(size_t layer) const { return parameters[2 * layer].tensor; }
  const at::Tensor& b(size_t layer) const { return parameters[2 * layer + 1].tensor; }

  EmpiricalRisk risk(const at::Tensor& weights = {}) const {
    return EmpiricalRisk(
        Model([chain = *this](const TensorList& x) { return chain.predict(x[0]); }, parameters),
        classifies ? cross_entropy() : mean_squared_error(),
        tensor_dataset({inputs}, targets, 3, weights));
  }

  std::vector<NamedTensor> parameters;
  Activation activation;
  bool classifies;
  at::Tensor inputs, targets;

 private:
  at::Tensor predict(at::Tensor h) const {
    for (size_t i = 0; i < num_layers(); ++i) {
      h = at::linear(i == 0 ? h : activation(h), w(i), b(i));
    }
    return h;
  }
};

/// A matrix over all parameters, seen as blocks of layers.
struct Blocks {
  at::Tensor matrix;  ///< in the order of the layers' matrices [W | b], row by row
  std::vector<int64_t> offsets;

  at::Tensor operator()(size_t i, size_t j) const {
    return matrix.narrow(0, offsets[i], offsets[i + 1] - offsets[i])
        .narrow(1, offsets[j], offsets[j + 1] - offsets[j]);
  }
};

/// Where the entries of the layers' matrices [W | b] lie among all parameters, layer by layer.
TensorList layer_entries(const Chain& chain, const Space& space) {
  TensorList layers;
  const auto entries = [&](size_t i) {
    const SpaceEntry& entry = space.entries()[i];
    return at::arange(entry.offset, entry.offset + entry.size).view(entry.shape);
  };
  for (size_t i = 0; i < chain.num_layers(); ++i) {
    layers.push_back(joint(entries(2 * i), entries(2 * i + 1)).entries.flatten());
  }
  return layers;
}

Blocks blocks_of(const at::Tensor& matrix, const Chain& chain, const Space& space) {
  const TensorList layers = layer_entries(chain, space);
  const at::Tensor order = at::cat(layers).to(matrix.device());
  Blocks blocks{matrix.index_select(0, order).index_select(1, order), {0}};
  for (const at::Tensor& layer : layers) {
    blocks.offsets.push_back(blocks.offsets.back() + layer.numel());
  }
  return blocks;
}
Blocks blocks_of(const OperatorPtr& a, const Chain& chain) {
  return blocks_of(materialize(*a), chain, a->spec().domain);
}

/// The way back from the order of the layers.
at::Tensor in_order_of_parameters(const at::Tensor& matrix, const Chain& chain,
                                  const Space& space) {
  const at::Tensor back = at::cat(layer_entries(chain, space)).argsort().to(matrix.device());
  return matrix.index_select(0, back).index_select(1, back);
}

/// Second moments between any two layers: A_ij and G_ij.
struct Moments {
  std::vector<TensorList> a, g;
};

/// From the layers' inputs and gradients, example by example and vector by vector.
Moments moments_of(const Chain& chain, const EmpiricalRisk& risk, const at::Tensor& weights = {}) {
  Tape tape;
  at::Tensor output = chain.inputs;
  for (size_t i = 0; i < chain.num_layers(); ++i) {
    output = tape.linear(std::to_string(i), i == 0 ? output : chain.activation(output), chain.w(i),
                         chain.b(i));
  }
  const at::Tensor w = weights.defined() ? weights : at::ones({output.size(0)}, output.options());
  const int64_t classes = output.size(1);
  const at::Tensor eye = at::eye(classes, output.options().requires_grad(false));
  at::Tensor root = (std::sqrt(2.0) * eye).expand({output.size(0), -1, -1});
  if (chain.classifies) {
    const at::Tensor p = output.detach().softmax(1), q = p.sqrt();
    root = at::diag_embed(q) - p.unsqueeze(2) * q.unsqueeze(1);
  }
  TensorList probes;
  for (const HandUse& use : tape.uses) probes.push_back(use.probe);
  std::vector<TensorList> g;  // [vector][layer]
  for (int64_t c = 0; c < classes; ++c) {
    g.push_back(torch::autograd::grad({output}, probes, {root.select(2, c)}, true));
  }
  Moments moments;
  const size_t count = chain.num_layers();
  moments.a.resize(count);
  moments.g.resize(count);
  for (size_t i = 0; i < count; ++i) {
    for (size_t j = 0; j < count; ++j) {
      const at::Tensor weighted = w.unsqueeze(1) * tape.uses[j].a;
      moments.a[i].push_back(tape.uses[i].a.t().matmul(weighted) / w.sum());
      at::Tensor sum = at::zeros({probes[i].size(1), probes[j].size(1)}, w.options());
      for (const TensorList& vector : g) {
        sum += risk.scale() * vector[i].t().matmul(w.unsqueeze(1) * vector[j]);
      }
      moments.g[i].push_back(sum);
    }
  }
  return moments;
}

at::Tensor eye_of(const at::Tensor& a) { return at::eye(a.size(0), a.options()); }

/// With damped moments of layers with themselves.
Moments damped_moments(Moments moments, double d, bool pi) {
  for (size_t i = 0; i < moments.a.size(); ++i) {
    at::Tensor &a = moments.a[i][i], &g = moments.g[i][i];
    const double balance =
        pi ? std::sqrt((a.diagonal().mean() / g.diagonal().mean()).item<double>()) : 1;
    a = a + balance * std::sqrt(d) * eye_of(a);
    g = g + std::sqrt(d) / balance * eye_of(g);
  }
  return moments;
}

at::Tensor kron_of(const Moments& moments, size_t i, size_t j) {
  return at::kron(moments.g[i][j], moments.a[i][j]);
}

/// Equation (1.7) with dense matrices, in the order of the layers.
at::Tensor dense_formula(const Moments& m) {
  const size_t count = m.a.size();
  TensorList rows, residuals;
  for (size_t i = 0; i < count; ++i) {
    at::Tensor residual = kron_of(m, i, i);
    TensorList row;
    for (size_t j = 0; j < count; ++j) {
      const at::Tensor like = kron_of(m, i, j);
      row.push_back(i == j ? eye_of(like) : at::zeros_like(like));
    }
    if (i + 1 < count) {
      const at::Tensor psi_a = m.a[i][i + 1].matmul(m.a[i + 1][i + 1].inverse());
      const at::Tensor psi_g = m.g[i][i + 1].matmul(m.g[i + 1][i + 1].inverse());
      row[i + 1] = -at::kron(psi_g, psi_a);
      residual = residual - at::kron(psi_g.matmul(m.g[i + 1][i + 1]).matmul(psi_g.t()),
                                     psi_a.matmul(m.a[i + 1][i + 1]).matmul(psi_a.t()));
    }
    rows.push_back(at::cat(row, 1));
    residuals.push_back(residual.inverse());
  }
  const at::Tensor xi = at::cat(rows);
  return xi.t().matmul(at::block_diag(residuals)).matmul(xi);
}

OperatorPtr tridiagonal(const EmpiricalRisk& risk, double damping = 0.1) {
  return kfac_block_tridiagonal_inverse(
      risk, {}, {.damping = damping, .kind = KroneckerDamping::kHeuristicPi});
}

constexpr Tolerance kThroughInverses = {1e-8, 1e-10};

/// What an error says.
template <class Exception>
std::function<bool(const Exception&)> says(const std::string& words) {
  return [words](const Exception& error) {
    BOOST_TEST_INFO(error.what());
    BOOST_TEST(std::string(error.what()).find(words) != std::string::npos);
    return true;
  };
}

/// Checks that a model of `parameters` is refused with a message that holds `words`.
void check_refused(const std::vector<NamedTensor>& parameters,
                   const std::function<at::Tensor(const at::Tensor&)>& forward,
                   const at::Tensor& input, const std::string& words) {
  const Model model([=](const TensorList& x) { return forward(x[0]); }, parameters);
  const at::Tensor targets = at::zeros_like(model({input}).detach());
  const EmpiricalRisk risk(model, mean_squared_error(), tensor_dataset({input}, targets, 2));
  BOOST_CHECK_EXCEPTION(tridiagonal(risk), NotSupportedError, says<NotSupportedError>(words));
}

}  // namespace

// Assertion A19.
BOOST_AUTO_TEST_CASE(its_inverse_has_kronecker_blocks_around_the_diagonal) {
  for (const bool classifies : {false, true}) {
    for (const KroneckerDamping kind :
         {KroneckerDamping::kPerFactor, KroneckerDamping::kHeuristicPi}) {
      const Chain chain({3, 4, 2, 3, 2}, classifies);
      const EmpiricalRisk risk = chain.risk();
      const OperatorPtr a =
          kfac_block_tridiagonal_inverse(risk, {}, {.damping = 0.05, .kind = kind});
      const Moments moments =
          damped_moments(moments_of(chain, risk), 0.05, kind == KroneckerDamping::kHeuristicPi);
      const Blocks inverse_blocks = blocks_of(a, chain);
      const Blocks blocks{at::linalg_inv(inverse_blocks.matrix), inverse_blocks.offsets};
      for (size_t i = 0; i < 4; ++i) {
        for (size_t j = 0; j < 4; ++j) {
          if (std::max(i, j) - std::min(i, j) <= 1) {
            BOOST_TEST(close(blocks(i, j), kron_of(moments, i, j), kThroughInverses));
          } else {
            BOOST_TEST(inverse_blocks(i, j).abs().max().item<double>() == 0);
            BOOST_TEST(blocks(i, j).norm().item<double>() > 1e-4);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(it_is_the_formula_and_keeps_the_laws_of_operators) {
  for (const bool classifies : {false, true}) {
    const Chain chain({3, 4, 2, 3, 2}, classifies);
    const EmpiricalRisk risk = chain.risk();
    const at::Tensor expected = in_order_of_parameters(
        dense_formula(damped_moments(moments_of(chain, risk), 0.1, /*pi=*/true)), chain,
        risk.space());
    const OperatorPtr a = tridiagonal(risk);
    check_operator_laws(*a, expected);
    check_operator_laws(*a->inverse(), at::linalg_inv(expected));
    BOOST_TEST((a->spec().symmetry == Symmetry::kPositiveDefinite));
    BOOST_TEST(at::linalg_eigvalsh(materialize(*a)).min().item<double>() > 0);
  }
}

BOOST_AUTO_TEST_CASE(two_layers_leave_nothing_out) {
  const Chain chain({3, 4, 2}, true);
  const EmpiricalRisk risk = chain.risk();
  const Moments m = damped_moments(moments_of(chain, risk), 0.1, true);
  const at::Tensor whole = at::cat({at::cat({kron_of(m, 0, 0), kron_of(m, 0, 1)}, 1),
                                    at::cat({kron_of(m, 1, 0), kron_of(m, 1, 1)}, 1)});
  BOOST_TEST(
      close(blocks_of(tridiagonal(risk), chain).matrix, at::linalg_inv(whole), kThroughInverses));
}

BOOST_AUTO_TEST_CASE(one_layer_is_plain_kfac) {
  const Chain chain({3, 4});
  const EmpiricalRisk risk = chain.risk();
  const DampingOptions damping{.damping = 0.1, .kind = KroneckerDamping::kHeuristicPi};
  BOOST_TEST(close(materialize(*kfac_block_tridiagonal_inverse(risk, {}, damping)),
                   materialize(*damped(kfac(risk), damping)->inverse())));
}

BOOST_AUTO_TEST_CASE(damping_is_that_of_kfac_and_leaves_blocks_between_layers) {
  const Chain chain({3, 4, 2, 3});
  const EmpiricalRisk risk = chain.risk();
  const auto model = [&](const DampingOptions& damping) {
    return blocks_of(kfac_block_tridiagonal_inverse(risk, {}, damping)->inverse(), chain);
  };
  const Blocks little = model({.damping = 1e-3, .kind = KroneckerDamping::kHeuristicPi});
  for (const KroneckerDamping kind :
       {KroneckerDamping::kPerFactor, KroneckerDamping::kHeuristicPi}) {
    for (const bool relative : {false, true}) {
      const DampingOptions damping{.damping = 0.5, .kind = kind, .relative = relative};
      const Blocks blocks = model(damping), plain = blocks_of(damped(kfac(risk), damping), chain);
      for (size_t i = 0; i < 3; ++i) {
        BOOST_TEST(close(blocks(i, i), plain(i, i), kThroughInverses));
        if (i == 0) continue;
        BOOST_TEST(close(blocks(i - 1, i), little(i - 1, i), kThroughInverses));
      }
    }
  }
}

// Where inputs and gradients are independent, or there is one of them, blocks between layers are
// the GGN's.
BOOST_AUTO_TEST_CASE(blocks_between_layers_are_exact_where_those_of_layers_are) {
  const auto check = [](const Chain& chain) {
    const EmpiricalRisk risk = chain.risk();
    const Blocks blocks = blocks_of(tridiagonal(risk)->inverse(), chain);
    const Blocks exact = blocks_of(ggn(risk), chain);
    for (size_t i = 0; i + 1 < chain.num_layers(); ++i) {
      BOOST_TEST(exact(i, i + 1).norm().item<double>() > 1e-2);
      BOOST_TEST(close(blocks(i, i + 1), exact(i, i + 1)));
      BOOST_TEST(close(blocks(i + 1, i), exact(i + 1, i)));
    }
  };
  check(Chain({3, 4, 2, 3}, false, [](const at::Tensor& x) { return x; }));
  const auto tanh = [](const at::Tensor& x) { return x.tanh(); };
  for (const bool classifies : {false, true}) check(Chain({3, 4, 2, 3}, classifies, tanh, 1));
}

BOOST_AUTO_TEST_CASE(one_example_gives_the_empirical_fishers_blocks_between_layers) {
  const Chain chain(
      {3, 4, 2}, true, [](const at::Tensor& x) { return x.tanh(); }, 1);
  const EmpiricalRisk risk = chain.risk();
  const OperatorPtr a =
      kfac_block_tridiagonal_inverse(risk, {.fisher = Fisher::kEmpirical},
                                     {.damping = 0.1, .kind = KroneckerDamping::kHeuristicPi});
  BOOST_TEST(
      close(blocks_of(a->inverse(), chain)(0, 1), blocks_of(empirical_fisher(risk), chain)(0, 1)));
}

BOOST_AUTO_TEST_CASE(draws_are_those_of_kfac) {
  const Chain chain({3, 4, 2}, true);
  const EmpiricalRisk risk = chain.risk();
  const DampingOptions damping{.damping = 0.1, .kind = KroneckerDamping::kHeuristicPi};
  const KfacOptions options{
      .fisher = Fisher::kMonteCarlo, .mc_samples = 3, .random = RandomSource(5)};
  const auto once = kfac_block_tridiagonal_inverse(risk, options, damping);
  const auto again = kfac_block_tridiagonal_inverse(risk, options, damping);
  BOOST_TEST(at::equal(materialize(*once), materialize(*again)));
  const Blocks blocks = blocks_of(once->inverse(), chain),
               plain = blocks_of(damped(kfac(risk, options), damping), chain);
  for (size_t i = 0; i < 2; ++i) BOOST_TEST(close(blocks(i, i), plain(i, i), kThroughInverses));
}

BOOST_AUTO_TEST_CASE(weights_count_examples) {
  const Chain chain({3, 4, 2, 3}, true);
  const at::Tensor weights =
      at::tensor({1.0, 0.5, 2.0, 0.0, 1.0, 3.0, 0.25}, at::kDouble).to(test_device());
  const EmpiricalRisk risk = chain.risk(weights);
  const Moments m = damped_moments(moments_of(chain, risk, weights), 0.1, true);
  BOOST_TEST(close(blocks_of(tridiagonal(risk), chain).matrix, dense_formula(m), kThroughInverses));
}

BOOST_AUTO_TEST_CASE(single_precision_gives_single_precision) {
  const Chain chain({3, 4, 2, 3}, true);
  const at::Tensor expected = materialize(*tridiagonal(chain.risk()));
  Chain narrow = chain;
  for (NamedTensor& p : narrow.parameters) {
    p.tensor = p.tensor.detach().to(at::kFloat).requires_grad_();
  }
  narrow.inputs = narrow.inputs.to(at::kFloat);
  check_operator_laws(*tridiagonal(narrow.risk()), expected, {.tolerance = 1e-3});
}

BOOST_AUTO_TEST_CASE(layers_may_be_written_in_any_way) {
  const Chain chain({3, 4, 2, 3});
  const EmpiricalRisk plain = chain.risk();
  const auto& p = chain.parameters;
  const Model other(
      [p](const TensorList& x) {
        at::Tensor h = at::addmm(p[1].tensor, x[0], p[0].tensor.t());
        h.tanh_();
        h = (h.mm(p[2].tensor.t()) + p[3].tensor).tanh();
        return at::linear(h.unsqueeze(1), p[4].tensor, p[5].tensor).squeeze(1);
      },
      p);
  const EmpiricalRisk risk(other, mean_squared_error(),
                           tensor_dataset({chain.inputs}, chain.targets, 3));
  BOOST_TEST(close(materialize(*tridiagonal(risk)), materialize(*tridiagonal(plain))));
}

BOOST_AUTO_TEST_CASE(frozen_layers_of_any_kind_may_lie_between) {
  const auto net =
      seeded(torch::nn::Sequential(
                 torch::nn::Linear(4, 4), torch::nn::Unflatten(1, std::vector<int64_t>{1, 4}),
                 torch::nn::Conv1d(1, 2, 3), torch::nn::Flatten(), torch::nn::Linear(4, 2)),
             7);
  const EmpiricalRisk risk(Model::from_module(net), mean_squared_error(),
                           tensor_dataset({numbers({5, 4}, 1)}, numbers({5, 2}, 2), 3),
                           {.parameters = {"0.*", "4.*"}});
  // A linear net with squared error: all blocks are exact, but for damping.
  const DampingOptions damping{.damping = 0.1, .kind = KroneckerDamping::kHeuristicPi};
  const OperatorPtr plain = kfac(risk);
  const at::Tensor added = materialize(*damped(plain, damping)) - materialize(*plain);
  BOOST_TEST(close(materialize(*kfac_block_tridiagonal_inverse(risk, {}, damping)->inverse()),
                   materialize(*ggn(risk)) + added, kThroughInverses));
}

BOOST_AUTO_TEST_CASE(what_is_not_a_chain_is_refused_by_name) {
  const auto w = [](int i, at::IntArrayRef shape = {3, 3}) {
    return NamedTensor{"w" + std::to_string(i), parameter(shape, 30 + static_cast<uint64_t>(i))};
  };
  const std::vector<NamedTensor> p = {w(0), w(1), w(2)};
  const auto layer = [p](size_t i, const at::Tensor& x) { return at::linear(x, p[i].tensor); };
  const at::Tensor x = numbers({4, 3}, 1);

  check_refused(
      p,
      [=](const at::Tensor& v) {
        const at::Tensor h = layer(0, v).tanh();
        return layer(2, h + layer(1, h).tanh());  // a skip connection
      },
      x,
      "the input of 'w2' breaks the chain of layers; expected it to come from 'w1' alone, got "
      "'w0', 'w1'");
  check_refused(
      p,
      [=](const at::Tensor& v) {
        const at::Tensor first = layer(1, layer(0, v));
        return first + layer(2, v);  // two branches
      },
      x,
      "the input of 'w2' breaks the chain of layers; expected it to come from 'w1' alone, got "
      "none");
  check_refused(
      p,
      [=](const at::Tensor& v) {
        const at::Tensor h = layer(1, layer(0, v));
        return layer(2, h) + h;
      },
      x,
      "the output of the model breaks the chain of layers; expected it to come from 'w2' alone, "
      "got 'w1', 'w2'");
  check_refused(
      {p[0]}, [=](const at::Tensor& v) { return layer(0, layer(0, v).tanh()); }, x,
      "'w0' does not fit into a chain; expected a layer that is used once, got 2 uses");
  check_refused(
      p, [=](const at::Tensor& v) { return layer(2, layer(1, layer(0, v)).mean(1)); },
      numbers({4, 5, 3}, 1),
      "'w0' does not fit into a chain; expected one position for each "
      "example, got 5");
  check_refused(
      p, [=](const at::Tensor& v) { return layer(1, layer(0, v)); }, x, "does not use 'w2'");
  check_refused(
      {p[0], w(4, {3})}, [=](const at::Tensor& v) { return layer(0, v) * w(4, {3}).tensor; }, x,
      "w4");
  const NamedTensor scale = w(4, {3}), table = w(5, {4, 3});
  check_refused(
      {p[0], scale}, [=](const at::Tensor& v) { return layer(0, v) * scale.tensor; }, x,
      "'w4' does not fit into a chain; expected a linear layer, got scale");
  check_refused(
      {p[0], table},
      [=](const at::Tensor& v) { return layer(0, v).mm(table.tensor.narrow(0, 0, 3)); }, x,
      "'w5' belongs to no linear layer");
}

BOOST_AUTO_TEST_CASE(options_without_a_meaning_are_refused) {
  const EmpiricalRisk risk = Chain({3, 2}).risk();
  const DampingOptions pi{.kind = KroneckerDamping::kHeuristicPi};
  const auto refuses = [&](const KfacOptions& options, const DampingOptions& damping) {
    BOOST_CHECK_THROW(kfac_block_tridiagonal_inverse(risk, options, damping), OptionError);
  };
  refuses({.fisher = Fisher::kForwardOnly}, pi);
  refuses({.separate_bias = true}, pi);
  refuses({.fallback = Fallback::kDiagonal}, pi);
  refuses({.mc_samples = 0}, pi);
  refuses({}, {.kind = KroneckerDamping::kExact});
  refuses({}, {.damping = -1, .kind = KroneckerDamping::kHeuristicPi});
}

BOOST_AUTO_TEST_CASE(singular_factors_are_named) {
  Chain chain({3, 4, 2});
  {
    const at::NoGradGuard no_grad;
    chain.parameters[0].tensor[0].zero_();  // a unit that is always 0
    chain.parameters[1].tensor[0].zero_();
  }
  BOOST_CHECK_EXCEPTION(tridiagonal(chain.risk(), 0), NumericalError,
                        says<NumericalError>("input factor of 'w1'"));
  const Chain few(
      {3, 4, 2}, false, [](const at::Tensor& x) { return x.tanh(); }, 2);
  Chain wide({5, 2, 2});
  wide.inputs.select(1, 0).zero_();  // the first layer's own factor
  BOOST_CHECK_EXCEPTION(tridiagonal(wide.risk(), 0), NumericalError,
                        says<NumericalError>("layer of 'w0'"));
  BOOST_TEST(materialize(*tridiagonal(few.risk())).isfinite().all().item<bool>());
}

BOOST_AUTO_TEST_CASE(the_observer_sees_the_batches) {
  std::vector<int64_t> seen;
  kfac_block_tridiagonal_inverse(Chain({3, 2}).risk(), {.observer = [&](const Progress& progress) {
                                   seen.push_back(progress.done);
                                 }});
  BOOST_TEST(seen == (std::vector<int64_t>{1, 2, 3}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_SUITE_END()
