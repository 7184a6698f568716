#pragma once

#include <functional>
#include <map>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include <curvature/layerwise/kfac.hpp>
#include <curvature/model/empirical_risk.hpp>

#include "support/tensor_close.hpp"

namespace curvature::testing {

/// Numbers in [-1, 1] that depend on `seed` only.
inline at::Tensor numbers(at::IntArrayRef shape, uint64_t seed) {
  const at::Tensor unit = RandomSource(seed).uniform(0, c10::multiply_integers(shape));
  return (2 * unit.to(test_device()) - 1).view(shape);
}

/// A leaf in float64.
inline at::Tensor parameter(at::IntArrayRef shape, uint64_t seed) {
  return numbers(shape, seed).clone().requires_grad_();
}

/// A module in float64 and evaluation mode whose parameters and buffers depend on `seed` only.
template <class Holder>
Holder seeded(Holder module, uint64_t seed) {
  const at::NoGradGuard no_grad;
  module->to(test_device(), at::kDouble);
  module->eval();
  for (at::Tensor& p : module->parameters()) p.copy_(0.8 * numbers(p.sizes(), seed++));
  for (auto& buffer : module->named_buffers()) {
    if (!buffer.value().is_floating_point()) continue;
    buffer.value().copy_(1 + 0.3 * numbers(buffer.value().sizes(), seed++));
  }
  return module;
}

/// What one use of a layer says about one example: the gradient of [W | b] is the sum over
/// positions of (times * gradient of the probe) a^T.
struct HandUse {
  std::string block;
  at::Tensor a;      ///< `[S, columns]`, the 1 of a bias included
  at::Tensor times;  ///< `[S, rows]` or undefined
  at::Tensor probe;  ///< zeros `[S, rows]`, added to the layer's output
};

/// Writes down the layers of one example, computed by hand from rows of inputs.
class Tape {
 public:
  /// Output `y` of a layer with input rows `a`.
  at::Tensor use(const std::string& block, const at::Tensor& a, const at::Tensor& y,
                 const at::Tensor& times = {}) {
    const at::Tensor probe = at::zeros_like(y.detach()).requires_grad_();
    uses.push_back({block, a.detach(), times.defined() ? times.detach() : times, probe});
    return y + probe;
  }
  /// y = x W^T + b for rows x `[S, n]`.
  at::Tensor linear(const std::string& block, const at::Tensor& x, const at::Tensor& w,
                    const at::Tensor& b = {}) {
    const at::Tensor y = x.matmul(w.t());
    if (!b.defined()) return use(block, x, y);
    return use(block, at::cat({x, at::ones({x.size(0), 1}, x.options())}, 1), y + b);
  }
  /// y = x * w for rows x `[S, m]`.
  at::Tensor scale(const std::string& block, const at::Tensor& x, const at::Tensor& w) {
    return use(block, at::ones({x.size(0), 1}, x.options()), x * w, x);
  }
  /// y = x + b for rows x `[S, m]`.
  at::Tensor shift(const std::string& block, const at::Tensor& x, const at::Tensor& b) {
    return use(block, at::ones({x.size(0), 1}, x.options()), x + b);
  }

  std::vector<HandUse> uses;
};

/// Where the entries of a block's matrix lie among all parameters, `[rows, columns]`.
struct BlockIndex {
  at::Tensor entries;
  bool has_bias = false;  ///< the last column is a bias
};
inline BlockIndex joint(const at::Tensor& w, const at::Tensor& b) {
  return {at::cat({w.flatten(1), b.reshape({-1, 1})}, 1), true};
}
inline BlockIndex matrix(const at::Tensor& w) { return {w.flatten(1)}; }
inline BlockIndex column(const at::Tensor& b) { return {b.reshape({-1, 1})}; }

/// Positions of a parameter's entries in the flat view, in its shape, by its name.
using ParameterIndex = std::map<std::string, at::Tensor>;

/// A model, and the same model written by hand for one example, layer by layer.
struct LayerCase {
  std::string name;
  Model model;
  std::function<at::Tensor(Tape& tape, const TensorList& example)> by_hand;
  std::function<std::map<std::string, BlockIndex>(ParameterIndex& index)> blocks;
  TensorList inputs;
  at::Tensor targets;
  bool classifies = false;  ///< cross-entropy instead of MSE, class axis last

  EmpiricalRisk risk(int64_t batch_size, RiskOptions options = {}, at::Tensor weights = {}) const {
    return EmpiricalRisk(model, classifies ? cross_entropy() : mean_squared_error(),
                         tensor_dataset(inputs, targets, batch_size, std::move(weights)),
                         std::move(options));
  }
};

inline std::ostream& operator<<(std::ostream& out, const LayerCase& layer_case) {
  return out << layer_case.name;
}

/// The matrices `[D, D]`.
struct LayerReference {
  at::Tensor kfac;
  at::Tensor ekfac;  ///< undefined for forward-only
};

namespace detail {

/// The vectors of one example that are backpropagated, `[T, C, V]`, without the scale of the risk.
inline at::Tensor hand_cotangents(const LayerCase& layer_case, const EmpiricalRisk& risk, int64_t n,
                                  const at::Tensor& output, const KfacOptions& options) {
  const at::Tensor f = output.detach().reshape({-1, output.size(-1)});
  const at::Tensor target = layer_case.targets[n];
  const at::Tensor p = f.softmax(1);
  switch (options.fisher) {
    case Fisher::kForwardOnly:
      return {};
    case Fisher::kEmpirical:
      if (layer_case.classifies) {
        return (p - at::one_hot(target.reshape(-1), f.size(1))).unsqueeze(2);
      }
      return 2 * (f - target.reshape(f.sizes())).unsqueeze(2);
    case Fisher::kMonteCarlo:
      return risk.loss_function()
                 .at(output.detach().unsqueeze(0), target.unsqueeze(0))
                 ->samples(options.random, n, 1, options.mc_samples) /
             std::sqrt(static_cast<double>(options.mc_samples));
    case Fisher::kType2:
      break;
  }
  const at::Tensor eye = at::eye(f.size(1), f.options());
  at::Tensor root = (std::sqrt(2.0) * eye).expand({f.size(0), -1, -1});
  if (layer_case.classifies) {
    const at::Tensor q = p.sqrt();
    root = at::diag_embed(q) - p.unsqueeze(2) * q.unsqueeze(1);
  }
  if (f.size(0) == 1) return root;
  // The sign of a term and column: stream n of the source derived for signs.
  return root * options.random.derive(1)
                    .rademacher(static_cast<uint64_t>(n), f.size(0) * f.size(1))
                    .view({f.size(0), 1, f.size(1)});
}

/// What a block collects of one example: `a` `[S, columns]`, and g `[S, rows]` for each vector.
struct ExampleRows {
  TensorList a;
  std::vector<TensorList> g;  ///< [use][vector]
};

}  // namespace detail

/// K-FAC and EK-FAC from the layers' rows, example by example; weights of examples may be
/// undefined.
inline LayerReference layer_reference(const LayerCase& layer_case, const EmpiricalRisk& risk,
                                      const KfacOptions& options, const at::Tensor& weights = {}) {
  const Space& space = risk.space();
  const auto real = at::TensorOptions(at::kDouble).device(test_device());
  ParameterIndex index;
  for (const SpaceEntry& entry : space.entries()) {
    index[entry.name] = at::arange(entry.offset, entry.offset + entry.size, real.dtype(at::kLong))
                            .view(entry.shape);
  }
  std::map<std::string, BlockIndex> blocks = layer_case.blocks(index);

  // [block][example]
  std::map<std::string, std::vector<detail::ExampleRows>> rows;
  const int64_t num_examples = layer_case.inputs[0].size(0);
  for (int64_t n = 0; n < num_examples; ++n) {
    TensorList example;
    for (const at::Tensor& input : layer_case.inputs) example.push_back(input[n]);
    Tape tape;
    const at::Tensor output = layer_case.by_hand(tape, example);
    const at::Tensor v = detail::hand_cotangents(layer_case, risk, n, output, options);
    TensorList probes;
    for (const HandUse& use : tape.uses) probes.push_back(use.probe);
    std::map<std::string, detail::ExampleRows> mine;
    std::vector<TensorList> g;  // [vector][use]
    for (int64_t i = 0; v.defined() && i < v.size(2); ++i) {
      g.push_back(torch::autograd::grad({output}, probes, {v.select(2, i).reshape(output.sizes())},
                                        true, false, true));
    }
    for (size_t u = 0; u < tape.uses.size(); ++u) {
      const HandUse& use = tape.uses[u];
      detail::ExampleRows& target = mine[use.block];
      target.a.push_back(use.a);
      target.g.emplace_back();
      for (const TensorList& vector : g) {
        at::Tensor d = vector[u].defined() ? vector[u] : at::zeros_like(use.probe.detach());
        target.g.back().push_back(use.times.defined() ? d * use.times : d);
      }
    }
    for (auto& [name, value] : mine) rows[name].push_back(std::move(value));
  }
  if (options.separate_bias) {
    std::map<std::string, BlockIndex> split;
    for (const auto& [name, block] : blocks) {
      if (!block.has_bias) {
        split[name] = block;
        continue;
      }
      const int64_t n = block.entries.size(1) - 1;
      split[name] = {block.entries.narrow(1, 0, n)};
      split[name + " bias"] = {block.entries.narrow(1, n, 1)};
      rows[name + " bias"] = rows[name];
      for (detail::ExampleRows& example : rows[name]) {
        for (at::Tensor& a : example.a) a = a.narrow(1, 0, n);
      }
      for (detail::ExampleRows& example : rows[name + " bias"]) {
        detail::ExampleRows with_bias;  // a use may leave the bias out
        for (size_t u = 0; u < example.a.size(); ++u) {
          const at::Tensor ones = example.a[u].narrow(1, n, 1);
          if (ones.abs().max().item<double>() == 0) continue;
          with_bias.a.push_back(ones);
          with_bias.g.push_back(example.g[u]);
        }
        example = with_bias;
      }
    }
    blocks = split;
  }

  LayerReference result{at::zeros({space.size(), space.size()}, real), {}};
  const bool corrects = options.fisher != Fisher::kForwardOnly;
  if (corrects) result.ekfac = at::zeros_like(result.kfac);
  const bool reduces = options.weight_sharing == WeightSharing::kReduce;
  for (const auto& [name, block] : blocks) {
    const int64_t m = block.entries.size(0), columns = block.entries.size(1);
    at::Tensor a_sum = at::zeros({columns, columns}, real), b = at::zeros({m, m}, real);
    double count = 0;
    for (int64_t n = 0; n < num_examples; ++n) {
      const detail::ExampleRows& example = rows.at(name)[static_cast<size_t>(n)];
      const double w = weights.defined() ? weights[n].item<double>() : 1;
      at::Tensor a = at::cat(example.a);
      if (reduces) a = a.mean(0, true);
      for (int64_t s = 0; s < a.size(0); ++s) a_sum += w * at::outer(a[s], a[s]);
      count += w * static_cast<double>(a.size(0));
      for (size_t v = 0; v < example.g.front().size(); ++v) {
        TensorList uses;
        for (const TensorList& use : example.g) uses.push_back(use[v]);
        at::Tensor g = at::cat(uses);
        if (reduces) g = g.sum(0, true);
        for (int64_t s = 0; s < g.size(0); ++s) b += w * risk.scale() * at::outer(g[s], g[s]);
      }
    }
    const at::Tensor a = a_sum / count;
    if (!corrects) b = at::eye(m, real);
    const at::Tensor flat = block.entries.reshape(-1);
    result.kfac.index_put_({flat.unsqueeze(1), flat.unsqueeze(0)}, at::kron(b, a));
    if (!corrects) continue;
    const at::Tensor ua = std::get<1>(at::linalg_eigh((a + a.t()) / 2)),
                     ub = std::get<1>(at::linalg_eigh((b + b.t()) / 2));
    at::Tensor s = at::zeros({m, columns}, real);
    for (int64_t n = 0; n < num_examples; ++n) {
      const detail::ExampleRows& example = rows.at(name)[static_cast<size_t>(n)];
      const double w = weights.defined() ? weights[n].item<double>() : 1;
      for (size_t v = 0; v < example.g.front().size(); ++v) {
        at::Tensor gradient = at::zeros({m, columns}, real);
        for (size_t u = 0; u < example.a.size(); ++u) {
          gradient += example.g[u][v].t().matmul(example.a[u]);
        }
        s += w * risk.scale() * ub.t().matmul(gradient).matmul(ua).square();
      }
    }
    const at::Tensor q = at::kron(ub, ua);
    result.ekfac.index_put_({flat.unsqueeze(1), flat.unsqueeze(0)},
                            (q * s.reshape({1, -1})).matmul(q.t()));
  }
  return result;
}

}  // namespace curvature::testing
