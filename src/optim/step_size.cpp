
#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/optim/step_size.hpp>

namespace curvature::optim {

DirectionalMinimum minimize(const DirectionalModel& model) {
  // In units of each direction's length, so that a short one is not taken for a null direction.
  const at::Tensor lengths = model.curvatures.diagonal().clamp_min(0).sqrt();
  const at::Tensor inverse_lengths = at::where(lengths > 0, 1 / lengths, at::zeros_like(lengths));
  const at::Tensor curvatures =
      model.curvatures * inverse_lengths.unsqueeze(0) * inverse_lengths.unsqueeze(1);
  const auto [l, q] = at::linalg_eigh(curvatures);
  const at::Tensor inverse = at::where(l > 1e-12, 1 / l, at::zeros_like(l));
  const at::Tensor coefficients =
      -inverse_lengths * q.mv(inverse * q.t().mv(inverse_lengths * model.slopes));
  return {coefficients, 0.5 * model.slopes.dot(coefficients).item<double>()};
}

double change_of(const DirectionalModel& model, const at::Tensor& coefficients) {
  return (model.slopes.dot(coefficients) +
          0.5 * coefficients.dot(model.curvatures.mv(coefficients)))
      .item<double>();
}

}  // namespace curvature::optim
