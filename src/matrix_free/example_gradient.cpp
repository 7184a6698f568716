#include "matrix_free/example_gradient.hpp"

#include <ATen/TensorOperators.h>

namespace curvature::detail {

at::Tensor example_loss_gradient(const EmpiricalRisk& risk, const BatchRisk& batch,
                                 const at::Tensor& output) {
  const Loss& loss = risk.loss_function();
  const at::Tensor gradient =
      loss.unrows(batch.loss_point(output)->gradient(), output).reshape(output.sizes());
  if (risk.options().reduction == Reduction::kSum) return gradient;
  // An example without any term that counts has a zero gradient, whatever it is divided by.
  const at::Tensor terms = loss.normalizers(batch.batch().targets);
  const at::Tensor scale = terms.masked_fill(terms == 0, 1).reciprocal().to(gradient.options());
  Shape broadcast(static_cast<size_t>(output.dim()), 1);
  broadcast.front() = output.size(0);
  return gradient * scale.view(broadcast);
}

}  // namespace curvature::detail
