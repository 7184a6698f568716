#include "optim/inverse_blocks.hpp"

#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "layerwise/assemble.hpp"
#include "layerwise/cotangents.hpp"
#include "layerwise/layer_pass.hpp"

namespace curvature::optim::detail {
namespace {

using curvature::detail::LayerPass;

/// A factor in the dtype of arithmetic, and what was seen through it.
struct Look {
  const MatrixClass& structure;
  Parts k;
  Parts sum;         ///< of Pi(K^T x x^T K)
  double count = 0;  ///< of vectors x, or their weight

  explicit Look(const InverseFactor& factor) : structure(factor.structure()), k(factor.wide_k()) {
    for (const at::Tensor& part : k) sum.push_back(at::zeros_like(part));
  }

  at::TensorOptions options() const { return k.front().options(); }

  /// Adds vectors `[..., size]`.
  void add(const at::Tensor& vectors) {
    const at::Tensor rows = vectors.reshape({-1, structure.size()}).to(options());
    const at::Tensor seen = structure.multiply(rows, k, 1, /*transposed=*/true);
    scale_and_add(sum, 1, structure.project_gram(seen, 1), 1);
  }

  /// The sample of a second moment that is there: a diagonal, or of a dense class.
  void set_moment(const at::Tensor& moment) {
    const at::Tensor s = moment.to(options());
    sum = {s.dim() == 1 ? k[0].square() * s : k[0].t().mm(s).mm(k[0])};
    count = 1;
  }

  FactorSample sample(double scale) && {
    for (at::Tensor& part : sum) part.mul_(scale);
    const double mean = structure.trace(sum) / static_cast<double>(structure.size());
    return {.projected = std::move(sum), .mean = mean};
  }
};

/// A block while a batch is looked at. With one-hot inputs their counts are summed first.
struct BlockLook {
  std::optional<Look> input;
  Look output;
  at::Tensor one_hot_counts = {};
};

class Sampler {
 public:
  Sampler(const EmpiricalRisk& batch, const KfacOptions& options, const LayerPlan& plan,
          const std::vector<InverseBlock>& blocks)
      : batch_(batch), options_(options), plan_(plan), blocks_(blocks) {
    for (const InverseBlock& block : blocks) {
      looks_.push_back({.input = std::nullopt, .output = Look(block.output)});
      if (block.has_layer()) looks_.back().input.emplace(*block.input);
      if (block.block.one_hot) {
        looks_.back().one_hot_counts =
            at::zeros({block.block.columns()}, looks_.back().input->options());
      }
    }
  }

  void add(const BatchRisk& piece) {
    const LayerPass pass(batch_, plan_, piece, curvature::detail::record(batch_, piece),
                         options_.separate_bias);
    for (size_t i = 0; i < plan_.blocks.size(); ++i) {
      if (!pass.uses(i)) continue;
      if (plan_.blocks[i].one_hot) {
        add_one_hot(looks_[i], pass.indices(i), piece.batch().weights);
      } else {
        add_inputs(*looks_[i].input, pass.inputs(i), piece.batch().weights);
      }
    }
    curvature::detail::for_each_cotangent(batch_, piece, pass.output(), options_,
                                          [&](const at::Tensor& cotangent) {
                                            const TensorList backward = pass.backward(cotangent);
                                            for (size_t i = 0; i < plan_.blocks.size(); ++i) {
                                              if (!pass.uses(i)) continue;
                                              const at::Tensor g = pass.gradients(i, backward);
                                              looks_[i].output.add(reduces() ? g.sum(1) : g);
                                            }
                                          });
  }

  std::vector<BlockSample> finish() && {
    sum_over_workers();
    std::vector<BlockSample> samples;
    for (size_t i = 0; i < looks_.size(); ++i) {
      samples.push_back(blocks_[i].has_layer() ? layer_sample(looks_[i])
                                               : parameter_sample(looks_[i], blocks_[i].block));
    }
    return samples;
  }

 private:
  bool reduces() const { return options_.weight_sharing == WeightSharing::kReduce; }

  /// Inputs `[N, S, n]`.
  void add_inputs(Look& look, const at::Tensor& inputs, const at::Tensor& weights) const {
    const at::Tensor rows = reduces() ? inputs.mean(1, /*keepdim=*/true) : inputs;
    const auto positions = static_cast<double>(rows.size(1));
    if (!weights.defined()) {
      look.add(rows);
      look.count += static_cast<double>(rows.size(0)) * positions;
      return;
    }
    look.add(rows * weights.to(rows.options()).sqrt().view({-1, 1, 1}));
    look.count += weights.sum().item<double>() * positions;
  }

  static void add_one_hot(BlockLook& look, const at::Tensor& indices, const at::Tensor& weights) {
    const at::TensorOptions options = look.one_hot_counts.options();
    const at::Tensor w = weights.defined() ? weights.to(options).unsqueeze(1).expand_as(indices)
                                           : at::ones(indices.sizes(), options);
    const at::Tensor kept = indices.flatten().ge(0).nonzero().squeeze(1);
    look.one_hot_counts.index_add_(0, indices.flatten().index_select(0, kept),
                                   w.flatten().index_select(0, kept));
    look.input->count += w.sum().item<double>();
  }

  void sum_over_workers() {
    TensorList sums;
    for (BlockLook& look : looks_) {
      if (!look.input) continue;
      sums.push_back(at::full({1}, look.input->count, at::kDouble));
      if (look.one_hot_counts.defined()) sums.push_back(look.one_hot_counts);
      for (const Parts* parts : {&look.input->sum, &look.output.sum}) {
        sums.insert(sums.end(), parts->begin(), parts->end());
      }
    }
    if (sums.empty()) return;
    batch_.reducer().sum(sums);
    auto next = sums.begin();
    for (BlockLook& look : looks_) {
      if (!look.input) continue;
      look.input->count = (next++)->item<double>();
      if (look.one_hot_counts.defined()) look.one_hot_counts = *next++;
      for (Parts* parts : {&look.input->sum, &look.output.sum}) {
        for (at::Tensor& part : *parts) part = *next++;
      }
    }
  }

  BlockSample layer_sample(BlockLook& look) const {
    const double count = look.input->count;
    if (count == 0) return {};
    if (look.one_hot_counts.defined()) look.input->set_moment(look.one_hot_counts);
    if (options_.fisher == Fisher::kForwardOnly) {
      look.output.sum = look.output.structure.project_inner(look.output.k);
    }
    return {.is_used = true,
            .input = std::move(*look.input).sample(1 / count),
            .output = std::move(look.output).sample(1)};
  }

  /// Of a parameter without layer: unused, or for the fallback.
  BlockSample parameter_sample(BlockLook& look, const LayerBlock& block) const {
    const size_t parameter = *block.weight;
    look.output.set_moment(plan_.uncovered.contains(parameter)
                               ? curvature::detail::fallback_curvature(batch_, options_, parameter)
                               : at::zeros({block.rows}, look.output.options()));
    return {.is_used = true, .input = std::nullopt, .output = std::move(look.output).sample(1)};
  }

  const EmpiricalRisk& batch_;
  const KfacOptions& options_;
  const LayerPlan& plan_;
  const std::vector<InverseBlock>& blocks_;
  std::vector<BlockLook> looks_;
};

}  // namespace

std::vector<BlockSample> sample_blocks(const EmpiricalRisk& batch, const KfacOptions& options,
                                       const LayerPlan& plan,
                                       const std::vector<InverseBlock>& blocks, int64_t offset) {
  const at::NoGradGuard no_grad;
  Sampler sampler(batch, options, plan, blocks);
  for (int64_t index = 0; index < batch.data().num_batches(); ++index) {
    const BatchRisk view = batch.on(index);
    const BatchRisk numbered = batch.on(view.batch(), offset + view.first_example());
    curvature::detail::for_each_piece(batch, plan, numbered,
                                      [&](const BatchRisk& piece) { sampler.add(piece); });
  }
  return std::move(sampler).finish();
}

}  // namespace curvature::optim::detail
