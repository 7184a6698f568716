#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/diagonal.hpp>

#include "core/check.hpp"
#include "matrix_free/per_example.hpp"

namespace curvature {
namespace {

/// Vectors `[R, C, V]` on one example's outputs, the squares of whose pullbacks are summed.
using Cotangents = std::function<at::Tensor(const detail::Example& example)>;

/// Columns of the square roots, each alone: V = R C, so that terms do not mix.
at::Tensor root_columns(const at::Tensor& root) {
  const int64_t rows = root.size(0), classes = root.size(1), width = root.size(2);
  const at::Tensor apart =
      root.unsqueeze(2) * at::eye(rows, root.options()).view({rows, 1, rows, 1});
  return apart.reshape({rows, classes, rows * width});
}

OperatorPtr diagonal_of_squares(const EmpiricalRisk& risk, const Observer& observer,
                                const Cotangents& cotangents) {
  TensorList sums;
  for (const at::Tensor& parameter : risk.parameters()) {
    sums.push_back(at::zeros_like(parameter.detach()));
  }
  const Loss& loss = risk.loss_function();
  const int64_t count = risk.num_local_examples();
  detail::for_each_example(risk, 0, count, [&](int64_t n, const detail::Example& example) {
    const at::Tensor vectors = cotangents(example);
    const double weight = example.risk.term_weights(vectors.size(0)).max().item<double>();
    for (int64_t v = 0; v < vectors.size(2); ++v) {
      const at::Tensor cotangent = loss.unrows(vectors.select(2, v), example.output);
      const TensorList part = detail::vector_jacobian_product(detail::graph_edges({example.output}),
                                                              risk.parameters(), {cotangent});
      for (size_t i = 0; i < part.size(); ++i) {
        if (part[i].defined()) sums[i].addcmul_(part[i], part[i], weight);
      }
    }
    if (observer) observer({"GGN diagonal", n + 1, count});
  });
  risk.reducer().sum(sums);
  for (at::Tensor& sum : sums) sum.add_(risk.options().weight_decay);
  for (at::Tensor& sum : sums) sum = sum.unsqueeze(-1);
  return diagonal(risk.space().join(sums).squeeze(-1), risk.space());
}

}  // namespace

OperatorPtr ggn_diagonal(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  return diagonal_of_squares(risk, options.observer, [](const detail::Example& example) {
    return root_columns(example.risk.loss_point(example.output.detach())->hessian_root());
  });
}

OperatorPtr ggn_mc_diagonal(const EmpiricalRisk& risk, const MonteCarloOptions& monte_carlo,
                            const MatrixFreeOptions& options) {
  CURVATURE_CHECK(monte_carlo.samples > 0, OptionError,
                  "MonteCarloOptions: samples must be positive; got {}", monte_carlo.samples);
  return diagonal_of_squares(risk, options.observer, [&](const detail::Example& example) {
    return example.risk.loss_point(example.output.detach())
               ->samples(monte_carlo.random, example.risk.first_example(), 1, monte_carlo.samples) /
           std::sqrt(static_cast<double>(monte_carlo.samples));
  });
}

}  // namespace curvature
