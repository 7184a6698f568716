#include <string_view>
#include <utility>
#include <variant>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <curvature/layerwise/block_tridiagonal.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/check.hpp"
#include "core/matrix_product.hpp"
#include "layerwise/assemble.hpp"
#include "layerwise/block_tridiagonal_operator.hpp"
#include "layerwise/cotangents.hpp"
#include "layerwise/gram.hpp"
#include "layerwise/layer_chain.hpp"

namespace curvature {
namespace {

using detail::ChainFactors;
using detail::FactorPair;

constexpr std::string_view kBlockTridiagonal = "kfac_block_tridiagonal_inverse";

void check_options(const KfacOptions& options, const DampingOptions& damping) {
  detail::check_options(options);
  CURVATURE_CHECK(options.fisher != Fisher::kForwardOnly, OptionError,
                  "{}: forward-only has no gradients; expected another fisher", kBlockTridiagonal);
  CURVATURE_CHECK(!options.separate_bias, OptionError,
                  "{}: biases belong to their layers' matrices; expected separate_bias false, got "
                  "true",
                  kBlockTridiagonal);
  CURVATURE_CHECK(options.fallback == Fallback::kRefuse, OptionError,
                  "{}: every parameter must belong to the chain; expected fallback kRefuse",
                  kBlockTridiagonal);
  CURVATURE_CHECK(damping.kind != KroneckerDamping::kExact, OptionError,
                  "{}: damping must leave Kronecker products; expected kPerFactor or kHeuristicPi, "
                  "got kExact",
                  kBlockTridiagonal);
}

void refuse_other_parameters(const Space& space, const detail::LayerPlan& plan) {
  if (!plan.uncovered.empty()) {
    const auto& [parameter, reason] = *plan.uncovered.begin();
    throw NotSupportedError(
        fmt::format("{}: '{}' belongs to no linear layer: {}; leave it out of the parameters",
                    kBlockTridiagonal, space.entries()[parameter].name, reason));
  }
  if (!plan.unused.empty()) {
    throw NotSupportedError(
        fmt::format("{}: the model does not use '{}'; leave it out of the parameters",
                    kBlockTridiagonal, space.entries()[plan.unused.front()].name));
  }
}

/// The second moments of a chain's layers, summed over what was seen.
class ChainStatistics {
 public:
  ChainStatistics(const EmpiricalRisk& risk, const KfacOptions& options,
                  const detail::LayerPlan& plan)
      : risk_(risk), options_(options), plan_(plan) {}

  void add(const BatchRisk& batch) {
    const at::NoGradGuard no_grad;
    const detail::Recorded recorded = detail::record(risk_, batch);
    const detail::LayerPass pass(risk_, plan_, batch, recorded, /*separate_bias=*/false);
    see(detail::layer_chain(risk_.space(), plan_, recorded, pass));
    add_moments(inputs(pass, batch.batch().weights), &FactorPair::a);
    detail::for_each_cotangent(risk_, batch, pass.output(), options_,
                               [&](const at::Tensor& cotangent) {
                                 const TensorList backward = pass.backward(cotangent);
                                 TensorList rows;
                                 for (const size_t i : chain_)
                                   rows.push_back(pass.gradients(i, backward).select(1, 0));
                                 add_moments(rows, &FactorPair::b);
                               });
  }

  /// Blocks of the plan, from the layer next to the input on.
  const std::vector<size_t>& chain() const { return chain_; }

  /// Means, over all workers. They take the sums' memory.
  ChainFactors factors() && {
    const at::NoGradGuard no_grad;
    TensorList all;
    for (std::vector<FactorPair>* pairs : {&sums_.layers, &sums_.pairs}) {
      for (const FactorPair& pair : *pairs) {
        all.push_back(pair.a);
        all.push_back(pair.b);
      }
    }
    risk_.reducer().sum(all);
    // Gradients carry the scale of the risk, inputs do not.
    const double input_scale = 1 / risk_.total_weight();
    auto next = all.begin();
    for (FactorPair& layer : sums_.layers) {
      layer = {*next++, *next++};
      detail::mirror_lower(layer.a, input_scale);
      detail::mirror_lower(layer.b);
    }
    for (FactorPair& pair : sums_.pairs) {
      pair = {*next++, *next++};
      pair.a.mul_(input_scale);
    }
    return std::move(sums_);
  }

 private:
  void see(std::vector<size_t> chain) {
    if (chain_.empty()) {
      chain_ = std::move(chain);
      make_sums();
      return;
    }
    CURVATURE_CHECK(chain == chain_, NotSupportedError,
                    "{}: a batch passes through the layers in another order than the first; the "
                    "order must not depend on the data",
                    kBlockTridiagonal);
  }

  void make_sums() {
    const auto zeros = [options = risk_.parameters().front().options().requires_grad(false)](
                           const detail::LayerBlock& x, const detail::LayerBlock& y) {
      return FactorPair{at::zeros({x.columns(), y.columns()}, options),
                        at::zeros({x.rows, y.rows}, options)};
    };
    for (size_t i = 0; i < chain_.size(); ++i) {
      const detail::LayerBlock& block = plan_.blocks[chain_[i]];
      sums_.layers.push_back(zeros(block, block));
      if (i + 1 < chain_.size()) {
        sums_.pairs.push_back(zeros(block, plan_.blocks[chain_[i + 1]]));
      }
    }
  }

  /// Inputs `[N, columns]` of the layers, times the roots of the examples' weights.
  TensorList inputs(const detail::LayerPass& pass, const at::Tensor& weights) const {
    TensorList rows;
    for (const size_t i : chain_) {
      const at::Tensor a = pass.inputs(i).select(1, 0);
      rows.push_back(weights.defined() ? a * weights.to(a.options()).sqrt().unsqueeze(1) : a);
    }
    return rows;
  }

  /// Adds the outer products of the layers' rows `[N, d]` with themselves and the next layer's.
  void add_moments(const TensorList& rows, at::Tensor FactorPair::*factor) {
    for (size_t i = 0; i < rows.size(); ++i) {
      detail::add_gram(sums_.layers[i].*factor, rows[i]);
      if (i + 1 < rows.size()) {
        detail::add_matrix_product(sums_.pairs[i].*factor, rows[i].t(), rows[i + 1]);
      }
    }
  }

  const EmpiricalRisk& risk_;
  const KfacOptions& options_;
  const detail::LayerPlan& plan_;
  std::vector<size_t> chain_;
  ChainFactors sums_;
};

FactorPair damped_factors(const FactorPair& factors, const DampingOptions& options) {
  const Structure structure =
      damped(kronecker({factors.b, factors.a}, Symmetry::kPositiveSemidefinite), options)
          ->structure();
  const std::vector<at::Tensor>& result = std::get<KroneckerStructure>(structure).factors;
  return {.a = result[1], .b = result[0]};
}

}  // namespace

OperatorPtr kfac_block_tridiagonal_inverse(const EmpiricalRisk& risk, const KfacOptions& options,
                                           const DampingOptions& damping) {
  check_options(options, damping);
  const detail::LayerPlan plan = detail::plan_layers(risk, options);
  refuse_other_parameters(risk.space(), plan);
  ChainStatistics statistics(risk, options, plan);
  detail::for_each_batch(risk, options.observer, "Kronecker factors", [&](const BatchRisk& batch) {
    detail::for_each_piece(risk, plan, batch,
                           [&](const BatchRisk& piece) { statistics.add(piece); });
  });
  std::vector<detail::LayerBlock> blocks;
  for (const size_t i : statistics.chain()) blocks.push_back(plan.blocks[i]);
  ChainFactors factors = std::move(statistics).factors();
  for (FactorPair& layer : factors.layers) layer = damped_factors(layer, damping);
  return detail::block_tridiagonal_inverse(std::move(blocks), factors, risk.space());
}

}  // namespace curvature
