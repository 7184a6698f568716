#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/core/memory.hpp>
#include <curvature/layerwise/kfac.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/operators/kronecker.hpp>
#include <curvature/spectral/eigenpairs.hpp>

#include "core/check.hpp"
#include "layerwise/assemble.hpp"
#include "layerwise/cotangents.hpp"
#include "layerwise/kfac_statistics.hpp"

namespace curvature {
namespace {

/// The whole gradients P of examples, backpropagated vector by vector, of one block: kept if they
/// fit into a quarter of the free memory, else computed again in each pass.
class ExampleGradients {
 public:
  ExampleGradients(const EmpiricalRisk& risk, const detail::LayerPlan& plan,
                   const KfacOptions& options, size_t block)
      : risk_(risk), plan_(plan), options_(options), block_(block) {}

  /// The sum over all workers.
  at::Tensor over_workers(at::Tensor sum) const {
    TensorList sums = {std::move(sum)};
    risk_.reducer().sum(sums);
    return sums.front();
  }
  /// Visits those of this worker in chunks `[*, rows, columns]`.
  void for_each(const std::function<void(const at::Tensor&)>& visit) {
    if (complete_) {
      for (const at::Tensor& chunk : kept_) visit(chunk);
      return;
    }
    TensorList chunks;
    const int64_t budget = default_memory_budget(risk_.parameters().front().device());
    int64_t bytes = 0;
    const auto add = [&](const BatchRisk& batch) {
      const detail::LayerPass pass(risk_, plan_, batch, detail::record(risk_, batch),
                                   options_.separate_bias);
      if (!pass.uses(block_)) return;
      const at::Tensor a = pass.inputs(block_);
      detail::for_each_cotangent(
          risk_, batch, pass.output(), options_, [&](const at::Tensor& cotangent) {
            const at::Tensor g = pass.gradients(block_, pass.backward(cotangent));
            const at::Tensor chunk = at::bmm(g.transpose(1, 2), a);
            bytes += chunk.numel() * chunk.element_size();
            fits_ = fits_ && bytes <= budget;
            if (!fits_) chunks.clear();
            if (fits_) chunks.push_back(chunk);
            visit(chunk);
          });
    };
    for (int64_t index = 0; index < risk_.data().num_batches(); ++index) {
      detail::for_each_piece(risk_, plan_, risk_.on(index), add);
    }
    kept_ = std::move(chunks);
    complete_ = fits_;
  }

 private:
  const EmpiricalRisk& risk_;
  const detail::LayerPlan& plan_;
  const KfacOptions& options_;
  size_t block_;
  TensorList kept_;
  bool fits_ = true;       // as far as is known
  bool complete_ = false;  // all are in `kept_`
};

/// sum_P P M P^T for M `[columns, columns]`.
at::Tensor to_outputs(ExampleGradients& gradients, const at::Tensor& m, int64_t rows) {
  at::Tensor sum = at::zeros({rows, rows}, m.options());
  gradients.for_each([&](const at::Tensor& p) {
    sum.add_(at::matmul(at::matmul(p, m), p.transpose(1, 2)).sum(0));
  });
  return gradients.over_workers(sum);
}

/// sum_P P^T U P for U `[rows, rows]`.
at::Tensor to_inputs(ExampleGradients& gradients, const at::Tensor& u, int64_t columns) {
  at::Tensor sum = at::zeros({columns, columns}, u.options());
  gradients.for_each([&](const at::Tensor& p) {
    sum.add_(at::matmul(at::matmul(p.transpose(1, 2), u), p).sum(0));
  });
  return gradients.over_workers(sum);
}

/// The Kronecker product nearest to sum_P vec(P) vec(P)^T in the Frobenius norm: from the largest
/// singular pair of its rearrangement R, vec(M) -> vec(sum_P P M P^T) (Van Loan, Pitsianis, "Linear
/// Algebra for Large Scale and Real-Time Applications", 1993). Both matrices of the pair are
/// positive semidefinite.
detail::FactorPair nearest_product(ExampleGradients& gradients, const detail::LayerBlock& block,
                                   const at::TensorOptions& options, const RandomSource& random) {
  const int64_t rows = block.rows, columns = block.columns();
  const MatrixMap normal_product = [&](const at::Tensor& x) {
    TensorList products;
    for (int64_t k = 0; k < x.size(1); ++k) {
      const at::Tensor m = x.select(1, k).reshape({columns, columns});
      products.push_back(
          to_inputs(gradients, to_outputs(gradients, m, rows), columns).reshape({-1, 1}));
    }
    return at::cat(products, 1);
  };
  const OperatorPtr normal = function_operator({.domain = Space::flat(columns * columns),
                                                .range = Space::flat(columns * columns),
                                                .dtype = c10::typeMetaToScalarType(options.dtype()),
                                                .device = options.device(),
                                                .symmetry = Symmetry::kPositiveSemidefinite},
                                               normal_product);
  const double tolerance = normal->spec().dtype == at::kDouble ? 1e-11 : 1e-5;
  const EigenpairsResult top =
      eigenpairs(normal, {.count = 1, .tolerance = tolerance, .random = random});
  at::Tensor a = top.top.vectors.reshape({columns, columns});
  a = (a + a.t()) / (a.trace().item<double>() < 0 ? -2.0 : 2.0);
  at::Tensor b = to_outputs(gradients, a, rows);  // sigma u
  const double sigma = b.norm().item<double>();
  if (sigma == 0) return {at::zeros_like(a), b};
  return {a * std::sqrt(sigma), b / std::sqrt(sigma)};
}

}  // namespace

OperatorPtr kfoc(const EmpiricalRisk& risk, const KfacOptions& options) {
  constexpr int64_t kLargestSide = 4096;
  CURVATURE_CHECK(options.fisher != Fisher::kForwardOnly, OptionError,
                  "kfoc: forward-only has no gradients to fit; use kfac");
  detail::check_options(options);
  // Gradients of whole examples; tables as products with one-hot vectors.
  KfacOptions whole = options;
  whole.weight_sharing = WeightSharing::kReduce;
  detail::LayerPlan plan = detail::plan_layers(risk, whole);
  detail::refuse_uncovered(risk, plan, options);
  const at::NoGradGuard no_grad;
  const auto tensor_options = risk.parameters().front().options().requires_grad(false);
  std::vector<OperatorPtr> inner;
  for (size_t i = 0; i < plan.blocks.size(); ++i) {
    const detail::LayerBlock& block = plan.blocks[i];
    CURVATURE_CHECK(block.columns() <= kLargestSide, NotSupportedError,
                    "kfoc: a {} layer has {} inputs; expected at most {}; use kfac", block.kind,
                    block.columns(), kLargestSide);
    ExampleGradients gradients(risk, plan, options, i);
    const detail::FactorPair pair =
        nearest_product(gradients, block, tensor_options, options.random.derive(i + 1));
    inner.push_back(kronecker({pair.b, pair.a}, Symmetry::kSymmetric));
    if (options.observer) {
      options.observer({"Nearest Kronecker products", static_cast<int64_t>(i) + 1,
                        static_cast<int64_t>(plan.blocks.size())});
    }
  }
  return detail::assemble(risk, options, std::move(plan), std::move(inner), "KFOC");
}

}  // namespace curvature
