#pragma once

// What tests of the natural gradient share.

#include <torch/torch.h>

#include <curvature/operators/algebra.hpp>
#include <curvature/optim/natural_gradient.hpp>

#include "optim/small_problems.hpp"

namespace curvature::testing {

/// The preconditioned gradient itself, whole.
inline optim::NaturalGradientOptions plain(double damping = 0.1) {
  return {.learning_rate = 1,
          .momentum = 0,
          .step_size = optim::StepSize::kFixed,
          .damping = damping,
          .fisher = Fisher::kType2};
}

/// The update of one step.
inline at::Tensor moved_by(optim::Minimizer& minimizer, const EmpiricalRisk& risk,
                           optim::StepReport* report = nullptr) {
  const at::Tensor before = parameters_of(risk);
  const optim::StepReport seen = minimizer.step(risk);
  if (report != nullptr) *report = seen;
  return parameters_of(risk) - before;
}

inline at::Tensor first_step(const EmpiricalRisk& risk,
                             const optim::NaturalGradientOptions& options) {
  return moved_by(*optim::natural_gradient(risk, options), risk);
}

/// -(damped curvature)^-1 g, all dense.
inline at::Tensor dense_step(const EmpiricalRisk& risk, const OperatorPtr& damped_curvature) {
  const at::Tensor a = materialize(*damped_curvature);
  return -at::linalg_solve(a, gradient_of(risk));
}

inline at::Tensor eye_of(const at::Tensor& a) { return at::eye(a.size(0), a.options()); }

}  // namespace curvature::testing
