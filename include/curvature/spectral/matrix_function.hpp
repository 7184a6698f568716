#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/core/random.hpp>
#include <curvature/core/termination.hpp>
#include <curvature/spectral/operator_ref.hpp>
#include <curvature/spectral/scalar_function.hpp>

/// \file
/// f(A) x for a symmetric operator known by its products, and f(A) as an operator.

namespace curvature {

/// How accurate f(A) x is, and what it may cost.
struct LanczosFunctionOptions {
  int64_t num_steps = 200;  ///< products per column, at most; clipped to n
  /// A column is done when its last few steps changed it by less than this, as a part of its norm;
  /// by default 1e-10 for float64 and 1e-5 for float32 operators.
  std::optional<double> tolerance = std::nullopt;
  /// Operators only: throw a NumericalError instead of returning columns that are not done after
  /// `num_steps`.
  bool require_convergence = false;
  int64_t columns_at_once = 4;  ///< runs in lockstep; each keeps up to num_steps + 1 vectors
  Observer observer = {};       ///< sees the products
};

/// f(A) x, and what it took.
struct FunctionProduct {
  at::Tensor values;                 ///< f(A) x, `[n]` or `[n, K]` as x
  std::vector<int64_t> steps = {};   ///< of each column
  std::vector<double> updates = {};  ///< last change of each column, as a part of its norm
  int64_t products = 0;              ///< with the operator
  Termination termination = Termination::kConverged;  ///< of the worst column
};

/// f(A) x as |x| V f(T) e_1 for each column x of `[n]` or `[n, K]`, from the Krylov space of x,
/// with full reorthogonalisation. Exact for polynomials of degree num_steps - 1 and after a
/// breakdown; the error falls like rho^-m for f analytic within the Bernstein ellipse of parameter
/// rho around the spectrum. Changes are judged over at least two steps: an even f of
/// an even spectrum gains every second one only. Druskin, Knizhnerman, USSR Comput. Math. 29(6),
/// 1989; Higham, "Functions of Matrices", 13.2.
/// @throws NotSupportedError if `a` is not symmetric, ShapeError or DtypeDeviceError if x does not
///   fit, OptionError, NumericalError if f or a product is not finite
FunctionProduct apply_function(OperatorRef a, const ScalarFunction& f, const at::Tensor& x,
                               const LanczosFunctionOptions& options = {});

/// f(A) as an operator whose products are `apply_function`: linear and symmetric up to the
/// tolerance. Declared symmetric.
/// @throws OptionError, NotSupportedError if `a` is not symmetric; products throw as
///   `apply_function`
OperatorPtr lanczos_function(OperatorPtr a, ScalarFunction f,
                             const LanczosFunctionOptions& options = {});

/// How good a polynomial is.
struct ChebyshevOptions {
  int64_t degree = 100;  ///< of the polynomial: products per column
  /// Bounds of the spectrum. One that is not given is estimated from `bound_steps` Lanczos steps:
  /// the extreme Ritz value, its residual and 1 % of the range beyond; never below zero for an
  /// operator declared positive semidefinite.
  std::optional<double> lower = std::nullopt;
  std::optional<double> upper = std::nullopt;  ///< see `lower`
  int64_t bound_steps = 20;                    ///< products for the bounds, at most
  RandomSource random = RandomSource();        ///< of the vector from which bounds are estimated
};

/// p(A) for the polynomial p that interpolates f at the Chebyshev points of [lower, upper], an
/// exactly linear and symmetric operator. A product takes `degree` products with all columns at
/// once and keeps three more copies of them, no basis. The error is that of the polynomial on the
/// interval, which falls like rho^-degree for f analytic within the Bernstein ellipse of parameter
/// rho around it; eigenvalues outside spoil everything. Bounds are estimated here and now.
/// Trefethen, "Approximation Theory and Approximation Practice", 2013.
/// @throws NotSupportedError if `a` is not symmetric; OptionError, also for lower >= upper;
///   NumericalError if f is not finite at an interpolation point
OperatorPtr chebyshev_function(OperatorPtr a, ScalarFunction f,
                               const ChebyshevOptions& options = {});

/// A^1/2: the closed form where A has one, else `lanczos_function`. Declared positive semidefinite.
/// @throws NumericalError, here or in a product, if an eigenvalue is negative beyond rounding; as
///   `lanczos_function`
OperatorPtr square_root(const OperatorPtr& a, const LanczosFunctionOptions& options = {});
/// A^-1/2, as `square_root`; declared positive definite.
/// @throws NumericalError, here or in a product, if an eigenvalue is not positive (up to rounding)
OperatorPtr inverse_square_root(const OperatorPtr& a, const LanczosFunctionOptions& options = {});
/// exp(A), as `square_root`; declared positive definite.
OperatorPtr exponential(const OperatorPtr& a, const LanczosFunctionOptions& options = {});
/// log(A), as `square_root`; declared symmetric.
/// @throws NumericalError, here or in a product, if an eigenvalue is not positive (up to rounding)
OperatorPtr logarithm(const OperatorPtr& a, const LanczosFunctionOptions& options = {});

/// Draws from N(0, A) as columns `[n, count]` without a factorisation: A^1/2 z, z number `first +
/// i` of `random`. Column i depends on the seed and on `first + i` only.
/// @throws as `square_root`
at::Tensor sample_by_lanczos(const OperatorPtr& a, const RandomSource& random, int64_t count,
                             int64_t first = 0, const LanczosFunctionOptions& options = {});
/// Draws from N(0, A^-1) likewise: A^-1/2 z.
/// @throws as `inverse_square_root`
at::Tensor sample_inverse_by_lanczos(const OperatorPtr& a, const RandomSource& random,
                                     int64_t count, int64_t first = 0,
                                     const LanczosFunctionOptions& options = {});

}  // namespace curvature
