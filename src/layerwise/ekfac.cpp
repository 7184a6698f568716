#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_unique2.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/zeros.h>

#include <curvature/layerwise/kfac.hpp>
#include <curvature/operators/eigen_decomposed.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/check.hpp"
#include "layerwise/columns_in_basis.hpp"
#include "layerwise/cotangents.hpp"
#include "layerwise/factors.hpp"

namespace curvature {
namespace {

/// Numbers of an example's gradients that are held at once.
constexpr int64_t kChunk = int64_t{1} << 24;

/// Eigenvectors of a symmetric factor, from float64.
at::Tensor eigenvectors(const at::Tensor& factor, const std::string& kind) {
  CURVATURE_CHECK(std::isfinite(factor.sum().item<double>()), NumericalError,
                  "ekfac: a factor of a {} layer is not finite", kind);
  const at::Tensor matrix = factor.to(at::kDouble);
  return std::get<1>(at::linalg_eigh((matrix + matrix.t()) / 2)).to(factor.scalar_type());
}

/// Sum over examples of the squared entries of sum_s g_s a_s^T, `[rows, columns]`, for rotated g
/// `[N, S, rows]` and a `[N, S, columns]`. One position needs no gradients of examples.
at::Tensor squared_gradients(const at::Tensor& g, const at::Tensor& a) {
  if (g.size(1) == 1) return g.squeeze(1).square().t().matmul(a.squeeze(1).square());
  at::Tensor sum = at::zeros({g.size(2), a.size(2)}, g.options());
  const int64_t chunk = std::max<int64_t>(1, kChunk / (g.size(2) * a.size(2)));
  for (int64_t begin = 0; begin < g.size(0); begin += chunk) {
    const int64_t count = std::min(chunk, g.size(0) - begin);
    const at::Tensor gradients =
        at::bmm(g.narrow(0, begin, count).transpose(1, 2), a.narrow(0, begin, count));
    sum.add_(gradients.square_().sum(0));
  }
  return sum;
}

/// The same for one-hot a: each example's gradients with the same index are summed, then squared.
void add_squared_one_hot_gradients(const at::Tensor& g, const at::Tensor& indices,
                                   at::Tensor& eigenvalues) {
  const int64_t columns = eigenvalues.size(1);
  const at::Tensor example =
      at::arange(g.size(0), indices.options()).unsqueeze(1).expand_as(indices);
  const at::Tensor kept = indices.flatten().ge(0).nonzero().squeeze(1);
  const at::Tensor key = (example * columns + indices).flatten().index_select(0, kept);
  const auto [keys, which, counts] = at::_unique2(key, /*sorted=*/true, /*return_inverse=*/true);
  at::Tensor sums = at::zeros({keys.size(0), g.size(2)}, g.options());
  sums.index_add_(0, which, g.flatten(0, 1).index_select(0, kept));
  eigenvalues.t().index_add_(0, keys.remainder(columns), sums.square_());
}

}  // namespace

OperatorPtr ekfac(const EmpiricalRisk& risk, const KfacOptions& options) {
  CURVATURE_CHECK(options.fisher != Fisher::kForwardOnly, OptionError,
                  "ekfac: forward-only has no gradients to correct with; use kfac");
  detail::LayerFactors factors = detail::compute_factors(risk, options);
  const at::NoGradGuard no_grad;
  std::vector<detail::FactorPair> bases;
  TensorList eigenvalues;
  for (size_t i = 0; i < factors.pairs.size(); ++i) {
    const detail::LayerBlock& block = factors.plan.blocks[i];
    bases.push_back({block.one_hot ? at::Tensor() : eigenvectors(factors.pairs[i].a, block.kind),
                     eigenvectors(factors.pairs[i].b, block.kind)});
    eigenvalues.push_back(at::zeros({block.rows, block.columns()}, bases.back().b.options()));
  }
  const auto correct = [&](const BatchRisk& batch) {
    const detail::LayerPass pass(risk, factors.plan, batch, options.separate_bias);
    TensorList inputs;
    for (size_t i = 0; i < bases.size(); ++i) {
      inputs.push_back(factors.plan.blocks[i].one_hot ? pass.indices(i)
                                                      : pass.inputs(i).matmul(bases[i].a));
    }
    detail::for_each_cotangent(risk, batch, pass.output(), options, [&](const at::Tensor& v) {
      const TensorList gradients = pass.gradients(v);
      for (size_t i = 0; i < bases.size(); ++i) {
        const at::Tensor g = gradients[i].matmul(bases[i].b);
        if (factors.plan.blocks[i].one_hot) {
          add_squared_one_hot_gradients(g, inputs[i], eigenvalues[i]);
        } else {
          eigenvalues[i].add_(squared_gradients(g, inputs[i]));
        }
      }
    });
  };
  detail::for_each_batch(risk, factors.plan, options.observer, "Eigenvalue correction", correct);
  std::vector<OperatorPtr> inner;
  for (size_t i = 0; i < bases.size(); ++i) {
    inner.push_back(
        factors.plan.blocks[i].one_hot
            ? detail::columns_in_basis(bases[i].b, eigenvalues[i])
            : eigen_decomposed(kronecker({bases[i].b, bases[i].a}), eigenvalues[i].reshape({-1})));
  }
  return detail::assemble(risk, options, std::move(factors.plan), std::move(inner), "EKFAC");
}

}  // namespace curvature
