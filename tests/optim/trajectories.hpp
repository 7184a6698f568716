#pragma once

#include <functional>
#include <string>
#include <vector>

#include <curvature/core/random.hpp>
#include <curvature/optim/preconditioned.hpp>

namespace curvature::testing {

/// The gradients of `num_steps` steps for a parameter: random, of full rank as they add up.
inline std::vector<at::Tensor> random_gradients(const Shape& shape, int64_t num_steps,
                                                uint64_t seed = 0,
                                                at::ScalarType dtype = at::kDouble) {
  const RandomSource random(seed);
  int64_t size = 1;
  for (const int64_t d : shape) size *= d;
  std::vector<at::Tensor> gradients;
  for (int64_t t = 0; t < num_steps; ++t) {
    gradients.push_back(
        random.normal(static_cast<uint64_t>(t) + 1, size).view(shape).mul(0.3).to(dtype));
  }
  return gradients;
}

inline at::Tensor random_parameter(const Shape& shape, at::ScalarType dtype = at::kDouble) {
  int64_t size = 1;
  for (const int64_t d : shape) size *= d;
  return RandomSource(17).normal(0, size).view(shape).to(dtype);
}

/// The values of a parameter after each step of an optimizer along given gradients, `[T, ...]`.
inline at::Tensor trajectory(const optim::EstimatorFactory& estimator,
                             const optim::PreconditionedOptions& options, const at::Tensor& start,
                             const std::vector<at::Tensor>& gradients) {
  at::Tensor parameter = start.clone().requires_grad_();
  optim::Preconditioned optimizer({{"w", parameter}}, estimator, options);
  std::vector<at::Tensor> values;
  for (const at::Tensor& gradient : gradients) {
    parameter.mutable_grad() = gradient.clone();
    optimizer.step();
    values.push_back(parameter.detach().clone());
  }
  return at::stack(values);
}

/// Unfolding along an axis, `[d_i, D_i]`: the others in their order.
inline at::Tensor unfolded(const at::Tensor& x, int64_t axis) {
  return x.movedim(axis, 0).reshape({x.size(axis), -1});
}

/// X x_i F for all axes, written out.
inline at::Tensor multiplied(at::Tensor x, const std::vector<at::Tensor>& matrices,
                             int64_t without = -1) {
  for (int64_t i = 0; i < x.dim(); ++i) {
    if (i != without) x = at::tensordot(matrices[i], x, {1}, {i}).movedim(0, i);
  }
  return x;
}

inline std::vector<at::Tensor> transposed(const std::vector<at::Tensor>& matrices) {
  std::vector<at::Tensor> result;
  for (const at::Tensor& matrix : matrices) result.push_back(matrix.t());
  return result;
}

/// Entries l_1[a] l_2[b] ...
inline at::Tensor entries(const std::vector<at::Tensor>& vectors) {
  at::Tensor result = vectors.front();
  for (size_t i = 1; i < vectors.size(); ++i) result = result.unsqueeze(-1) * vectors[i];
  return result;
}

inline at::Tensor symmetric_power(const at::Tensor& a, double power) {
  const auto [values, vectors] = at::linalg_eigh(a);
  return vectors.matmul(values.pow(power).diag()).matmul(vectors.t());
}

/// The shell of section 3.0 of the optimizers' conventions around a direction for (t, G, Mhat).
inline at::Tensor shell_trajectory(
    at::Tensor theta, const std::vector<at::Tensor>& gradients, double rate, double beta1,
    double decay,
    const std::function<at::Tensor(int64_t, const at::Tensor&, const at::Tensor&)>& direction) {
  at::Tensor m = at::zeros_like(theta);
  std::vector<at::Tensor> values;
  int64_t t = 0;
  for (const at::Tensor& g : gradients) {
    t += 1;
    m = beta1 * m + (1 - beta1) * g;
    const at::Tensor u = direction(t, g, m / (1 - std::pow(beta1, t)));
    theta = (1 - rate * decay) * theta - rate * u;
    values.push_back(theta);
  }
  return at::stack(values);
}

}  // namespace curvature::testing
