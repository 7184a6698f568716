#include "layerwise/factors.hpp"

#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>

#include "core/check.hpp"
#include "layerwise/cotangents.hpp"
#include "layerwise/outer_products.hpp"

namespace curvature::detail {
namespace {

/// Sums of outer products over batches.
class FactorSums {
 public:
  FactorSums(const EmpiricalRisk& risk, const LayerPlan& plan, const KfacOptions& options)
      : risk_(risk), plan_(plan), options_(options), weights_(plan.blocks.size()) {
    const auto tensor_options = risk.parameters().front().options().requires_grad(false);
    for (const LayerBlock& block : plan.blocks) {
      const Shape square = {block.columns(), block.columns()};
      pairs_.push_back({at::zeros(block.one_hot ? Shape{block.columns()} : square, tensor_options),
                        at::zeros({block.rows, block.rows}, tensor_options)});
    }
  }

  void add(const BatchRisk& batch) {
    const LayerPass pass(risk_, plan_, batch, options_.separate_bias);
    for (size_t i = 0; i < pairs_.size(); ++i) {
      if (plan_.blocks[i].one_hot) {
        add_indices(i, pass.indices(i), batch);
      } else {
        add_inputs(i, pass, batch);
      }
    }
    for_each_cotangent(risk_, batch, pass.output(), options_, [&](const at::Tensor& cotangent) {
      const TensorList gradients = pass.gradients(cotangent);
      for (size_t i = 0; i < pairs_.size(); ++i) {
        add_outer_products(reduces() ? gradients[i].sum(1, /*keepdim=*/true) : gradients[i],
                           pairs_[i].b);
      }
    });
  }

  std::vector<FactorPair> finish() {
    for (size_t i = 0; i < pairs_.size(); ++i) {
      FactorPair& pair = pairs_[i];
      pair.a.div_(weights_[i]);
      if (options_.fisher == Fisher::kForwardOnly) {
        pair.b = at::eye(pair.b.size(0), pair.b.options());
      }
    }
    return std::move(pairs_);
  }

 private:
  bool reduces() const { return options_.weight_sharing == WeightSharing::kReduce; }

  /// The same for the diagonal of one-hot inputs.
  void add_indices(size_t block, const at::Tensor& indices, const BatchRisk& batch) {
    const at::TensorOptions options = pairs_[block].a.options();
    const at::Tensor& weights = batch.batch().weights;
    const at::Tensor w = weights.defined() ? weights.to(options).unsqueeze(1).expand_as(indices)
                                           : at::ones(indices.sizes(), options);
    const at::Tensor kept = indices.flatten().ge(0).nonzero().squeeze(1);
    pairs_[block].a.index_add_(0, indices.flatten().index_select(0, kept),
                               w.flatten().index_select(0, kept));
    weights_[block] += w.sum().item<double>();
  }

  /// The mean over positions (expand) or examples (reduce), examples with their weights.
  void add_inputs(size_t block, const LayerPass& pass, const BatchRisk& batch) {
    if (!reduces() && !batch.batch().weights.defined()) {
      if (const auto count = pass.add_moment(block, pairs_[block].a)) {
        weights_[block] += static_cast<double>(*count);
        return;
      }
    }
    const at::Tensor inputs = pass.inputs(block);
    const at::Tensor rows = reduces() ? inputs.mean(1, /*keepdim=*/true) : inputs;
    const at::Tensor& weights = batch.batch().weights;
    const at::Tensor a = rows.flatten(0, 1);
    if (!weights.defined()) {
      pairs_[block].a.addmm_(a.t(), a);
      weights_[block] += static_cast<double>(a.size(0));
      return;
    }
    const at::Tensor w = weights.to(a.options()).repeat_interleave(rows.size(1));
    pairs_[block].a.addmm_(a.t(), a * w.unsqueeze(1));
    weights_[block] += w.sum().item<double>();
  }

  const EmpiricalRisk& risk_;
  const LayerPlan& plan_;
  const KfacOptions& options_;
  std::vector<FactorPair> pairs_;
  std::vector<double> weights_;
};

}  // namespace

void refuse_uncovered(const EmpiricalRisk& risk, const LayerPlan& plan,
                      const KfacOptions& options) {
  if (options.fallback != Fallback::kRefuse || plan.uncovered.empty()) return;
  const auto& [parameter, reason] = *plan.uncovered.begin();
  throw NotSupportedError(fmt::format(
      "layers: '{}' is not covered by a layer rule: {}; choose a fallback (diagonal or block), or "
      "leave it out of the parameters",
      risk.space().entries()[parameter].name, reason));
}

void check_options(const KfacOptions& options) {
  CURVATURE_CHECK(options.mc_samples > 0, OptionError,
                  "KfacOptions: mc_samples must be positive; got {}", options.mc_samples);
}

LayerFactors compute_factors(const EmpiricalRisk& risk, const KfacOptions& options) {
  check_options(options);
  LayerFactors factors{.plan = plan_layers(risk, options), .pairs = {}};
  refuse_uncovered(risk, factors.plan, options);
  FactorSums sums(risk, factors.plan, options);
  const at::NoGradGuard no_grad;
  for_each_batch(risk, factors.plan, options.observer, "Kronecker factors",
                 [&sums](const BatchRisk& batch) { sums.add(batch); });
  factors.pairs = sums.finish();
  return factors;
}

OperatorPtr assemble(const EmpiricalRisk& risk, const KfacOptions& options, LayerPlan plan,
                     std::vector<OperatorPtr> inner, const std::string& name) {
  const auto tensor_options = risk.parameters().front().options().requires_grad(false);
  const auto add_block = [&](size_t parameter, OperatorPtr operation) {
    LayerBlock block{.kind = "fallback", .weight = parameter, .bias = std::nullopt, .layout = {}};
    block.rows = operation->rows();
    block.weight_columns = 1;
    plan.blocks.push_back(block);
    inner.push_back(std::move(operation));
  };
  for (const size_t parameter : plan.unused) {
    add_block(parameter, curvature::diagonal(
                             at::zeros({risk.parameters()[parameter].numel()}, tensor_options)));
  }
  const double decay = risk.options().weight_decay;  // in the GGN, but not in layers' curvature
  for (const auto& [parameter, reason] : plan.uncovered) {
    const EmpiricalRisk alone = risk.with_parameters({risk.space().entries()[parameter].name});
    if (options.fallback == Fallback::kDiagonal) {
      const at::Tensor entries = *ggn_diagonal(alone)->diagonal();
      add_block(parameter, curvature::diagonal((entries - decay).clamp_min(0)));
    } else {
      const at::Tensor block = materialize(*ggn(alone));
      add_block(parameter, dense(block - decay * at::eye(block.size(0), block.options()),
                                 Symmetry::kPositiveSemidefinite));
    }
  }
  // Second moments: eigenvalues that are positive by rounding only say nothing.
  return layer_blocks(std::move(plan.blocks), std::move(inner), risk.space(), tensor_options, name,
                      Symmetry::kPositiveSemidefinite);
}

}  // namespace curvature::detail
