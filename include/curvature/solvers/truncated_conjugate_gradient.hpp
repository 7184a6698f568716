#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// When conjugate gradients on a quadratic model end; the first criterion that is met.
struct TruncatedCgOptions {
  int64_t max_iterations = 250;  ///< at most
  double relative_residual = 0;  ///< |b - A x| at most this part of |b|
  /// Martens's eps: after i > k iterations phi is negative and its decrease over the last k =
  /// max(10, ceil(i / 10)) of them was less than k eps |phi|; 0: never.
  double progress = 0;
  std::optional<double> radius{};        ///< |x| is at most this
  OperatorPtr preconditioner = nullptr;  ///< an approximate inverse of A, positive definite
  /// Iterates number 1, 2, ... ceil(growth^j) are kept for going back to; 0: the last one only.
  double snapshot_growth = 0;
};

/// Why conjugate gradients ended.
enum class TruncatedCgEnd {
  kResidual,           ///< as small as asked for
  kProgress,           ///< too little of it
  kBoundary,           ///< |x| is the radius
  kNegativeCurvature,  ///< A is not positive definite; with a radius, x was followed to the
                       ///< boundary
  kMaxIterations,
};

/// Approximate minimisers of phi(x) = x^T A x / 2 - b^T x.
struct TruncatedCgResult {
  std::vector<at::Tensor> iterates;  ///< kept ones `[n]`, in order; the last one is the result
  std::vector<double> values;        ///< phi of each
  TruncatedCgEnd end = TruncatedCgEnd::kMaxIterations;  ///< see there
  int64_t iterations = 0;                               ///< each one product
};

/// Decreases phi by preconditioned conjugate gradients from `start` (zero if undefined), as Newton
/// methods do that need neither an exact solution nor a definite A: ends at the boundary of a ball
/// or along a direction of negative curvature (Steihaug, SIAM J. Numer. Anal. 20(3), 1983), or
/// where phi makes too little progress (Martens, ICML 2010, section 4.4). phi falls from iterate to
/// iterate. Without a radius an iteration that meets negative curvature leaves x where it was.
/// Costs one product an iteration, and one for a start.
/// @throws ShapeError, DtypeDeviceError if vectors do not fit; OptionError for negative limits, or
///   a radius with a start or a preconditioner (which would need its norm); NumericalError if a
///   product is not finite or the preconditioner is not positive definite
TruncatedCgResult truncated_conjugate_gradient(const LinearOperator& a, const at::Tensor& b,
                                               const TruncatedCgOptions& options,
                                               const at::Tensor& start = {});

}  // namespace curvature
