#pragma once

// What tests of estimators share: gradients, an optimizer fed with them, and mode algebra spelled
// out by einsum-free unfoldings, apart from the library's own.

#include <cmath>
#include <functional>
#include <vector>

#include <curvature/core/random.hpp>
#include <curvature/optim/preconditioned.hpp>

#include "support/dense_operator.hpp"
#include "support/precompiled.hpp"
#include "support/tensor_close.hpp"

namespace curvature::testing {

/// `[d_mode, D / d_mode]`: the axis first, the others in their order.
inline at::Tensor unfolded(const at::Tensor& x, int64_t mode) {
  return x.movedim(mode, 0).reshape({x.size(mode), -1});
}

/// F on axis `mode`.
inline at::Tensor multiplied(const at::Tensor& x, const at::Tensor& f, int64_t mode) {
  auto shape = x.movedim(mode, 0).sizes().vec();
  shape[0] = f.size(0);
  return f.matmul(unfolded(x, mode)).reshape(shape).movedim(0, mode);
}

/// Every factor on its axis, but for one axis.
inline at::Tensor multiplied(at::Tensor x, const std::vector<at::Tensor>& factors,
                             int64_t without = -1) {
  for (int64_t i = 0; i < x.dim(); ++i) {
    if (i != without) x = multiplied(x, factors[static_cast<size_t>(i)], i);
  }
  return x;
}

/// Standard normal numbers.
inline at::Tensor normal(at::IntArrayRef shape, uint64_t seed,
                         const at::TensorOptions& options = double_options()) {
  return RandomSource(seed).normal(0, c10::multiply_integers(shape)).view(shape).to(options);
}

/// The gradients of `num_steps` steps for a parameter: random, of full rank as they add up.
inline std::vector<at::Tensor> random_gradients(const Shape& shape, int64_t num_steps,
                                                uint64_t seed = 0,
                                                at::ScalarType dtype = at::kDouble) {
  const RandomSource random(seed);
  const int64_t size = c10::multiply_integers(shape);
  std::vector<at::Tensor> gradients;
  for (int64_t t = 0; t < num_steps; ++t) {
    gradients.push_back(
        random.normal(static_cast<uint64_t>(t) + 1, size).view(shape).mul(0.3).to(dtype));
  }
  return gradients;
}

inline at::Tensor random_parameter(const Shape& shape, at::ScalarType dtype = at::kDouble) {
  return normal(shape, 17).to(dtype);
}

/// Gradients of different sizes, full of correlations.
inline std::vector<at::Tensor> some_gradients(at::IntArrayRef shape, int64_t count,
                                              uint64_t seed = 1) {
  std::vector<at::Tensor> factors;
  for (size_t i = 0; i < shape.size(); ++i) {
    factors.push_back(torch::eye(shape[i], double_options()) +
                      0.5 * normal({shape[i], shape[i]}, seed + 100 + i));
  }
  std::vector<at::Tensor> gradients;
  for (int64_t t = 0; t < count; ++t) {
    const double size = 0.5 + 0.1 * static_cast<double>(t % 7);
    gradients.push_back(size * multiplied(normal(shape, seed + 1000 + t), factors));
  }
  return gradients;
}

/// A parameter, and the optimizer that moves it along given gradients.
struct Replay {
  Replay(const at::Tensor& start, const optim::EstimatorFactory& estimator,
         const optim::PreconditionedOptions& options)
      : parameter(start.clone().requires_grad_()),
        optimizer({NamedTensor{"w", parameter}}, estimator, options) {}

  /// The parameter after one step.
  at::Tensor step(const at::Tensor& gradient) {
    parameter.mutable_grad() = gradient.to(parameter.options().requires_grad(false));
    optimizer.step(torch::optim::Optimizer::LossClosure());
    return parameter.detach().clone();
  }

  at::Tensor parameter;
  optim::Preconditioned optimizer;
};

/// The values of a parameter after each step of an optimizer along given gradients, `[T, ...]`.
inline at::Tensor trajectory(const optim::EstimatorFactory& estimator,
                             const optim::PreconditionedOptions& options, const at::Tensor& start,
                             const std::vector<at::Tensor>& gradients) {
  Replay replay(start, estimator, options);
  std::vector<at::Tensor> values;
  for (const at::Tensor& gradient : gradients) values.push_back(replay.step(gradient));
  return at::stack(values);
}

/// Whether a run that is saved after `before` steps and loaded by a new optimizer goes on bit for
/// bit.
inline bool resumes(const at::Tensor& start, const optim::EstimatorFactory& estimator,
                    const optim::PreconditionedOptions& options,
                    const std::vector<at::Tensor>& gradients, size_t before) {
  Replay whole(start, estimator, options);
  for (size_t t = 0; t < before; ++t) whole.step(gradients[t]);
  const Archive archive = whole.optimizer.save();
  // The second optimizer has been elsewhere, so that what it keeps beside its state would show.
  Replay resumed(whole.parameter.detach(), estimator, options);
  resumed.step(gradients.back());
  resumed.optimizer.load(archive);
  {
    const at::NoGradGuard no_grad;
    resumed.parameter.copy_(whole.parameter);
  }
  bool equal = true;
  for (size_t t = before; t < gradients.size(); ++t) {
    equal = equal && whole.step(gradients[t]).equal(resumed.step(gradients[t]));
  }
  return equal;
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
