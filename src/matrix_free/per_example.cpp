#include "matrix_free/per_example.hpp"

#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>
#include <c10/core/InferenceMode.h>

#include <curvature/matrix_free/jacobian.hpp>

#include "core/check.hpp"
#include "matrix_free/example_gradient.hpp"

namespace curvature {
namespace detail {
namespace {

Batch one_example(const Batch& batch, int64_t position) {
  const auto cut = [&](const at::Tensor& all) {
    return all.defined() ? all.narrow(0, position, 1) : all;
  };
  Batch example;
  for (const at::Tensor& input : batch.inputs) example.inputs.push_back(cut(input));
  example.targets = cut(batch.targets);
  example.weights = cut(batch.weights);
  return example;
}

}  // namespace

void for_each_example(const EmpiricalRisk& risk, int64_t first, int64_t count,
                      const std::function<void(int64_t index, const Example&)>& visit) {
  int64_t begin = 0;  // of the batch, among this worker's examples
  for (int64_t index = 0; index < risk.data().num_batches() && begin < first + count; ++index) {
    const BatchRisk batch = risk.on(index);
    const int64_t size = batch.batch().size();
    for (int64_t n = std::max(first, begin); n < std::min(first + count, begin + size); ++n) {
      const c10::InferenceMode no_inference(false);
      const at::AutoGradMode with_gradients(true);
      Example example{
          risk.on(one_example(batch.batch(), n - begin), batch.first_example() + n - begin), {}};
      example.output = example.risk.predict();
      visit(n - first, example);
    }
    begin += size;
  }
}

}  // namespace detail

TensorList per_example_gradients(const EmpiricalRisk& risk, int64_t first, int64_t count,
                                 const Observer& observer) {
  const int64_t available = risk.num_local_examples();
  CURVATURE_CHECK(first >= 0 && count >= 0 && first + count <= available, OptionError,
                  "per_example_gradients: expected examples among 0..{}, got {} from {}",
                  available - 1, count, first);
  TensorList gradients;
  for (const at::Tensor& parameter : risk.parameters()) {
    Shape shape = parameter.sizes().vec();
    shape.insert(shape.begin(), count);
    gradients.push_back(at::zeros(shape, parameter.options().requires_grad(false)));
  }
  detail::for_each_example(risk, first, count, [&](int64_t n, const detail::Example& example) {
    const at::Tensor cotangent =
        detail::example_loss_gradient(risk, example.risk, example.output.detach());
    const TensorList gradient = detail::vector_jacobian_product(
        detail::graph_edges({example.output}), risk.parameters(), {cotangent});
    for (size_t i = 0; i < gradient.size(); ++i) {
      if (gradient[i].defined()) gradients[i].select(0, n).copy_(gradient[i]);
    }
    if (observer) observer({"per-example gradients", n + 1, count});
  });
  return gradients;
}

}  // namespace curvature
