#include "matrix_free/pullback.hpp"

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>

#include "core/check.hpp"

namespace curvature::detail {
namespace {

/// `[R, C, V]` as `[R, C, R V]`, each vector on its own term alone.
at::Tensor terms_apart(const at::Tensor& vectors) {
  const int64_t rows = vectors.size(0), classes = vectors.size(1), width = vectors.size(2);
  const at::Tensor apart =
      vectors.unsqueeze(2) * at::eye(rows, vectors.options()).view({rows, 1, rows, 1});
  return apart.reshape({rows, classes, rows * width});
}

std::unique_ptr<const LossPoint> loss_point(const Example& example) {
  return example.risk.loss_point(example.output.detach());
}

}  // namespace

Cotangents hessian_cotangents() {
  return [](const Example& example) { return terms_apart(loss_point(example)->hessian_root()); };
}

Cotangents sampled_cotangents(const MonteCarloOptions& monte_carlo, bool apart) {
  CURVATURE_CHECK(monte_carlo.samples > 0, OptionError,
                  "MonteCarloOptions: samples must be positive; got {}", monte_carlo.samples);
  return [=](const Example& example) {
    const at::Tensor draws =
        loss_point(example)->samples(monte_carlo.random, example.risk.first_example(), 1,
                                     monte_carlo.samples) /
        std::sqrt(static_cast<double>(monte_carlo.samples));
    return apart ? terms_apart(draws) : draws;
  };
}

Cotangents gradient_cotangents() {
  return [](const Example& example) {
    return terms_apart(loss_point(example)->gradient().unsqueeze(-1));
  };
}

void for_each_pullback(const EmpiricalRisk& risk, const Cotangents& cotangents,
                       const Observer& observer, const char* what,
                       const std::function<void(const Pullback&)>& visit) {
  const Loss& loss = risk.loss_function();
  const int64_t count = risk.num_local_examples();
  for_each_example(risk, 0, count, [&](int64_t n, const Example& example) {
    const at::Tensor vectors = cotangents(example);
    const double weight = example.risk.term_weights(vectors.size(0)).max().item<double>();
    const at::Tensor counts = vectors.ne(0).flatten(0, 1).any(0).cpu();
    for (int64_t v = 0; weight > 0 && v < vectors.size(2); ++v) {
      if (!counts[v].item<bool>()) continue;
      const at::Tensor cotangent = loss.unrows(vectors.select(2, v), example.output);
      visit({.vectors_per_example = vectors.size(2),
             .weight = weight,
             .gradient = vector_jacobian_product(graph_edges({example.output}), risk.parameters(),
                                                 {cotangent})});
    }
    if (observer) observer({what, n + 1, count});
  });
}

}  // namespace curvature::detail
