#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

namespace curvature::optim {

/// How far a step goes along a direction D (a preconditioned gradient, uphill) and the last update
/// d0.
enum class StepSize {
  kFixed,  ///< -learning_rate D + momentum d0
  /// The same with learning_rate times min(1, sqrt(c / (learning_rate^2 <D, g>))): an upper bound c
  /// of the step's squared length in the preconditioner's own metric, which <D, g> stands for. Ba,
  /// Grosse, Martens, ICLR 2017; as `norm_constraint` in kfac-jax, `kl_clip` elsewhere.
  kNormConstraint,
  /// The same with min(learning_rate, sqrt(2 radius / D^T G D)), G the batch's exact GGN: a trust
  /// region of Kullback-Leibler divergence `radius`. Wu, Mansimov, Grosse, Liao, Ba, NeurIPS 2017
  /// (ACKTR), section 3.3.
  kTrustRegion,
  /// learning_rate (alpha D + mu d0) with the alpha and mu that minimise the batch's exact
  /// quadratic model, of curvature G + damping I. Martens, Grosse, ICML 2015, section 7.
  kQuadraticModel,
};

/// A quadratic model along k directions: slopes <d_i, g> `[k]` and curvatures d_i^T M d_j
/// `[k, k]`, float64 on the CPU.
struct DirectionalModel {
  at::Tensor slopes;      ///< `[k]`
  at::Tensor curvatures;  ///< `[k, k]`, positive semidefinite
};

/// Where a directional model is least, and by how much.
struct DirectionalMinimum {
  at::Tensor coefficients;  ///< `[k]`, float64 on the CPU
  double change;            ///< of the model, at most 0
};

/// The least-norm minimiser; directions of zero length or that depend on others are no trouble.
DirectionalMinimum minimize(const DirectionalModel& model);

/// Change of the model for given coefficients.
double change_of(const DirectionalModel& model, const at::Tensor& coefficients);

}  // namespace curvature::optim
