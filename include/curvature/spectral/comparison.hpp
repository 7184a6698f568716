#pragma once

#include <curvature/core/linear_operator.hpp>
#include <curvature/spectral/estimate.hpp>
#include <curvature/spectral/exact.hpp>
#include <curvature/spectral/matrix_function.hpp>
#include <curvature/spectral/operator_ref.hpp>
#include <curvature/spectral/stochastic_lanczos.hpp>

/// \file
/// How far two operators on the same space are from each other.

namespace curvature {

/// B^-1/2 A B^-1/2, whose eigenvalues are those of B^-1 A (1 where B models A perfectly): an
/// operator for `eigenpairs` and `spectral_density`. A product costs one of A and two of B^-1/2
/// (closed form, or Lanczos with `options`; see `inverse_square_root`).
/// @throws ShapeError, DtypeDeviceError if the operators do not match; NotSupportedError if one is
///   not symmetric; as `inverse_square_root`
OperatorPtr whitened(const OperatorPtr& a, const OperatorPtr& b,
                     const LanczosFunctionOptions& options = {});

/// KL(N(0, A) | N(0, B)) = 1/2 [tr B^-1 A - n - log det B^-1 A] of two normal distributions with
/// covariances A and B, in nats, never negative. For precisions P, Q: KL(N(0, P^-1) | N(0, Q^-1))
/// is `gaussian_divergence(q, p)`. By stochastic Lanczos quadrature of (x - 1 - log x) / 2 on
/// `whitened(a, b)`; `products` counts those with A and, inside Lanczos for B^-1/2, with B.
/// @throws NumericalError if A or B is not positive definite; as `whitened`,
/// `slq_trace_of_function`
Estimate gaussian_divergence(const OperatorPtr& a, const OperatorPtr& b,
                             const StochasticLanczosOptions& options = {},
                             const LanczosFunctionOptions& root = {});
/// The same from dense matrices in float64: n products with each, O(n^3) operations.
/// @throws NotSupportedError if an operator is not symmetric or does not fit into memory; else as
///   `gaussian_divergence`
Estimate exact_gaussian_divergence(const OperatorPtr& a, const OperatorPtr& b,
                                   const ExactOptions& options = {});

/// |A - B|_F, and as a part of |A|_F.
struct FrobeniusDistance {
  Estimate absolute = {};  ///< |A - B|_F
  Estimate relative = {};  ///< |A - B|_F / |A|_F; infinite or not a number for A = 0
};

/// From the means of |(A - B) z|^2 and |A z|^2 over the same probes, with standard errors by the
/// delta method. Rectangular operators too. A sample takes a product with each operator, and
/// `products` counts both; a requested error refers to the absolute distance.
/// @throws ShapeError, DtypeDeviceError if the operators do not match; OptionError; NumericalError
/// if
///   a product is not finite
FrobeniusDistance frobenius_distance(OperatorRef a, OperatorRef b,
                                     const EstimateOptions& options = {});
/// The same exactly, from products with all unit vectors, which it streams.
/// @throws as `frobenius_distance`
FrobeniusDistance exact_frobenius_distance(OperatorRef a, OperatorRef b,
                                           const ExactOptions& options = {});

}  // namespace curvature
