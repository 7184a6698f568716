#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <curvature/spectral/estimate.hpp>
#include <curvature/spectral/operator_ref.hpp>
#include <curvature/spectral/scalar_function.hpp>

/// \file
/// Stochastic Lanczos quadrature: tr f(A) of a symmetric operator as n times the mean over probes z
/// of the Gauss quadrature of z^T f(A) z / z^T z (`lanczos_quadratures`), with full
/// reorthogonalisation. One Krylov space serves any number of functions. Ubaru, Chen, Saad, SIAM J.
/// Matrix Anal. Appl. 38(4), 2017.
///
/// With m steps a quadrature is exact for polynomials of degree 2 m - 1 and after a breakdown;
/// otherwise it has an error of its own, which falls like rho^(-2m) for f analytic within the
/// Bernstein ellipse of parameter rho around the spectrum (rho = (sqrt(k) + 1) / (sqrt(k) - 1) for
/// log and condition number k). The standard error tells of the probes only.

namespace curvature {

/// How much stochastic Lanczos quadrature may spend.
struct StochasticLanczosOptions {
  int64_t samples = 30;              ///< probes at most, each with a Lanczos run
  int64_t num_steps = 80;            ///< products of a run; clipped to n
  Probe probe = Probe::kRademacher;  ///< Gaussian probes are normalised: they are sphere ones
  std::optional<double> absolute_error = std::nullopt;  ///< see `EstimateOptions`
  std::optional<double> relative_error = std::nullopt;  ///< see `EstimateOptions`
  int64_t check_every = 10;                             ///< see `EstimateOptions`
  int64_t probes_at_once = 1;            ///< runs in lockstep; each keeps num_steps + 1 vectors
  RandomSource random = RandomSource();  ///< of the probes
  Observer observer = {};                ///< sees the products
};

/// tr f(A). Costs at most `samples * num_steps` products.
/// @throws NotSupportedError if `a` is not symmetric, OptionError, NumericalError if f or a product
///   is not finite
Estimate slq_trace_of_function(OperatorRef a, const ScalarFunction& f,
                               const StochasticLanczosOptions& options = {});

/// log det A of a positive definite operator: tr log A. Costs as `slq_trace_of_function`.
/// @throws NumericalError if a Ritz value is not positive (up to rounding), which proves that A is
///   not positive definite; as `slq_trace_of_function`
Estimate slq_log_determinant(OperatorRef a, const StochasticLanczosOptions& options = {});

/// Effective dimension tr A (A + d I)^-1 of a positive semidefinite operator for each d of
/// `dampings`, all from the same Krylov spaces: samples, products and termination are those of all
/// of them together, and a requested error holds for each.
/// @throws OptionError for dampings that are not positive; NumericalError if a Ritz value is
///   negative beyond rounding; as `slq_trace_of_function`
std::vector<Estimate> slq_effective_dimension(OperatorRef a, const std::vector<double>& dampings,
                                              const StochasticLanczosOptions& options = {});

}  // namespace curvature
