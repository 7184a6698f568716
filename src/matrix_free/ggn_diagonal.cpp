#include <ATen/TensorOperators.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/diagonal.hpp>

#include "matrix_free/pullback.hpp"

namespace curvature {
namespace {

OperatorPtr diagonal_of_squares(const EmpiricalRisk& risk, const Observer& observer,
                                const detail::Cotangents& cotangents) {
  TensorList sums;
  for (const at::Tensor& parameter : risk.parameters()) {
    sums.push_back(at::zeros_like(parameter.detach()));
  }
  detail::for_each_pullback(risk, cotangents, observer, "GGN diagonal",
                            [&](const detail::Pullback& pullback) {
                              for (size_t i = 0; i < sums.size(); ++i) {
                                const at::Tensor& part = pullback.gradient[i];
                                if (part.defined()) sums[i].addcmul_(part, part, pullback.weight);
                              }
                            });
  risk.reducer().sum(sums);
  for (at::Tensor& sum : sums) sum.add_(risk.options().weight_decay);
  for (at::Tensor& sum : sums) sum = sum.unsqueeze(-1);
  return diagonal(risk.space().join(sums).squeeze(-1), risk.space());
}

}  // namespace

OperatorPtr ggn_diagonal(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  return diagonal_of_squares(risk, options.observer, detail::hessian_cotangents());
}

OperatorPtr ggn_mc_diagonal(const EmpiricalRisk& risk, const MonteCarloOptions& monte_carlo,
                            const MatrixFreeOptions& options) {
  return diagonal_of_squares(risk, options.observer,
                             detail::sampled_cotangents(monte_carlo, /*terms_apart=*/false));
}

}  // namespace curvature
