#pragma once

#include <cstdint>
#include <string_view>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/core/random.hpp>
#include <curvature/spectral/block_lanczos.hpp>

namespace curvature::detail {

/// What `eigenpairs` and `block_lanczos_eigenpairs` ask for, checked.
struct ThickRestartOptions {
  std::string_view who;
  int64_t count;
  int64_t count_bottom;
  EigenvalueOrder order;
  int64_t block_size;
  int64_t max_basis;  ///< clipped to n
  double tolerance;
  int64_t max_restarts;
  bool find_copies;  ///< search where the block may have left copies out
  bool verify;       ///< residuals by products, else from the recurrence
  at::Tensor start;  ///< first vector of the first block `[n]`; undefined: random
  RandomSource random;
  Observer observer;
};

/// Extreme eigenpairs of a symmetric operator by (block) Lanczos iteration with thick restarts.
/// @throws NumericalError if a product is not finite
BlockLanczosResult thick_restart_eigenpairs(const LinearOperator& a,
                                            const ThickRestartOptions& options);

}  // namespace curvature::detail
