#pragma once

#include <cstdint>

#include <curvature/optim/covariance_estimator.hpp>
#include <curvature/optim/psgd_kron_estimator.hpp>

namespace curvature::optim {

/// How `psgd_dense_estimator` estimates.
struct PsgdDenseOptions {
  double preconditioner_rate = 0.1;                ///< h times the Lipschitz constant
  double lipschitz_decay = 0.9;                    ///< of the constant's running bound
  PsgdGeometry geometry = PsgdGeometry::kQHalfEq;  ///< see there
  int64_t max_size = 4096;                         ///< parameters with more entries are refused
  int64_t refresh_interval = 1;                    ///< Q moves in every so many-th step
  double noise = 0;                                ///< see `PsgdKronOptions::noise`
  uint64_t seed = 0;                               ///< of the noise
};

/// P = S^-1/2 = Q^T Q for the whole parameter, D entries in one vector: `psgd_kron_estimator` with
/// one axis. Whitening type, the noise of its criterion integrated out: with r = P g a step is
/// along r r^T - I. Li, arXiv 2402.11858; the program psgd_torch.
///
/// Cost at a refresh: O(D^2) for `kQuad` and `kQeq`; two products of D x D matrices besides for
/// `kQHalfEq` (the rotation), one and a triangular system for `kEq`. Two products with a vector
/// otherwise. Memory: D^2. In bfloat16 most steps are lost in rounding, so that P stays far from
/// S^-1/2.
/// @throws OptionError, also for a parameter of more than `max_size` entries
EstimatorFactory psgd_dense_estimator(const PsgdDenseOptions& options = {});

}  // namespace curvature::optim
