#include <algorithm>
#include <cmath>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <curvature/matrix_free/hessian.hpp>
#include <curvature/operators/diagonal.hpp>

#include "core/check.hpp"
#include "core/densified.hpp"
#include "core/fast_kernels.hpp"
#include "matrix_free/curvature_operator.hpp"
#include "matrix_free/math_attention.hpp"

namespace curvature {
namespace {

constexpr int64_t kColumnsAtOnce = 16;

/// The graph of the gradient of a batch's objective; no edge where a parameter plays no role.
struct GradientGraph {
  detail::GraphEdges gradient;
};

std::shared_ptr<const GradientGraph> linearize(const BatchRisk& batch,
                                               const TensorList& parameters) {
  const detail::FastKernels fast;
  const c10::InferenceMode no_inference(false);
  const at::AutoGradMode with_gradients(true);
  at::Tensor objective;
  {
    const detail::MathAttentionGuard math_attention;
    objective = batch.objective(batch.predict());
  }
  CURVATURE_CHECK(std::isfinite(objective.item<double>()), NumericalError,
                  "Hessian: the loss is not finite for the batch that begins with example {}",
                  batch.first_example());
  auto graph = std::make_shared<GradientGraph>();
  graph->gradient.resize(parameters.size());
  if (objective.requires_grad()) {
    graph->gradient = detail::graph_edges(
        detail::densified(torch::autograd::grad({objective}, parameters, {}, /*retain_graph=*/true,
                                                /*create_graph=*/true, /*allow_unused=*/true)));
  }
  return graph;
}

class Hessian final : public detail::CurvatureOperator {
 public:
  Hessian(const EmpiricalRisk& risk, const MatrixFreeOptions& options)
      : CurvatureOperator(risk, options, "Hessian", Symmetry::kSymmetric,
                          risk.options().weight_decay),
        kept_(risk.data().num_batches(), detail::budget_bytes(risk, options)) {}

 private:
  void add_batch(int64_t index, const detail::Columns& x, detail::ColumnSums& sums) const override {
    const auto graph =
        kept_.get(index, [&] { return linearize(risk().on(index), risk().parameters()); });
    for (int64_t k = 0; k < x.size(); ++k) {
      for (const std::vector<size_t>& block : blocks()) {
        detail::GraphEdges gradient;
        TensorList parameters;
        for (const size_t i : block) {
          gradient.push_back(graph->gradient[i]);
          parameters.push_back(risk().parameters()[i]);
        }
        sums.add(k, block, detail::vector_jacobian_product(gradient, parameters, x.at(k, block)));
      }
    }
  }

  detail::KeptLinearizations<GradientGraph> kept_;
};

}  // namespace

OperatorPtr hessian(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  return std::make_shared<Hessian>(risk, options);
}

OperatorPtr hessian_diagonal(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  MatrixFreeOptions silent = options;
  silent.observer = {};
  const OperatorPtr full = hessian(risk, silent);
  const auto tensor_options = risk.parameters().front().options().requires_grad(false);
  const int64_t n = full->rows();
  at::Tensor diagonal_entries = at::empty({n}, tensor_options);
  for (int64_t begin = 0; begin < n; begin += kColumnsAtOnce) {
    const int64_t count = std::min(kColumnsAtOnce, n - begin);
    at::Tensor units = at::zeros({n, count}, tensor_options);
    units.narrow(0, begin, count).diagonal().fill_(1);
    diagonal_entries.narrow(0, begin, count)
        .copy_(full->apply(units).narrow(0, begin, count).diagonal());
    if (options.observer) options.observer({"Hessian diagonal", begin + count, n});
  }
  return diagonal(diagonal_entries, risk.space());
}

}  // namespace curvature
