#pragma once

#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>

#include "spectral/shifted_product.hpp"

namespace curvature::detail {

/// The best approximations of a run to the largest eigenpairs, converged or not.
struct LargestPairs {
  std::vector<double> values;  ///< largest first
  at::Tensor vectors;          ///< `[n, k]`, orthonormal, float64 on the CPU
  bool converged = false;
};

struct RestartedLanczosOptions {
  int64_t count;
  int64_t subspace;      ///< vectors kept, count < subspace <= n
  int64_t max_restarts;  ///< 0: one Lanczos run
  double tolerance;      ///< of a residual, relative to its eigenvalue
};

/// The algebraically largest eigenpairs of `product`, whose wanted eigenvalues are of order 1, from
/// the vector `start` `[n]` (float64 on the CPU). The only function that uses Spectra.
LargestPairs restarted_lanczos(ShiftedProduct& product, const at::Tensor& start,
                               const RestartedLanczosOptions& options);

}  // namespace curvature::detail
