#pragma once

#include <curvature/optim/refresh.hpp>

namespace curvature::optim {

/// Whether a gradient is in the operator that preconditions its own step.
enum class UpdateOrder {
  kUpdateFirst,        ///< it is
  kPreconditionFirst,  ///< it comes in afterwards
};

/// How a basis follows its factor S.
enum class BasisMethod {
  kEigh,  ///< eigenvectors of S by descending eigenvalue
  kQr,    ///< one step of orthogonal iteration: the orthogonal factor of S Q
};

/// What happens to the second moment along a basis when that changes from Q to Q R.
enum class Transport {
  kKeep,  ///< nothing
  kMix,   ///< V <- (R o R)^T V, exact if the covariance was diagonal along Q
};

/// What the very first gradient does.
enum class FirstGradient {
  kUse,        ///< it is a gradient like all others, or sets the scale and makes a step
  kBasisOnly,  ///< it makes the basis; no step, and t stays 0
};

}  // namespace curvature::optim
