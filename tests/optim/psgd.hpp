#pragma once

// What tests of PSGD's forms share.

#include <curvature/operators/algebra.hpp>

#include "optim/psgd_preconditioner.hpp"
#include "optim/reference.hpp"

namespace curvature::testing {

/// The update rule of the published program.
inline optim::PreconditionedOptions published_psgd(double rate = 0.01) {
  return {.learning_rate = rate,
          .momentum = {.beta = 0.9, .averaging = optim::Averaging::kRunningMean},
          .clip = {.rms = 2, .entry = 10},
          .view = {.shape = optim::ShapePolicy::kTensor, .vectors = optim::VectorPolicy::kFull}};
}

inline optim::ParameterView view_of(const Shape& shape) {
  return {.name = "w",
          .shape = shape,
          .modes = std::vector<optim::ModeKind>(shape.size(), optim::ModeKind::kDense),
          .options = double_options()};
}

/// P as a matrix.
inline at::Tensor preconditioner(const optim::PsgdPreconditioner& p) {
  return materialize(*curvature::pow(p.covariance(), -0.5));
}

}  // namespace curvature::testing
