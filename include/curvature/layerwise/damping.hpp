#pragma once

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// How d times the identity is added to a Kronecker product B (x) A with A `[n, n]`, B `[m, m]`.
enum class KroneckerDamping {
  kExact,        ///< B (x) A + d I, through eigenvectors
  kPerFactor,    ///< (B + sqrt(d) I) (x) (A + sqrt(d) I)
  kHeuristicPi,  ///< (B + sqrt(d) / pi I) (x) (A + pi sqrt(d) I), pi^2 = (tr A / n) / (tr B / m)
  /// The Kronecker product nearest to B (x) A + d I: its KL(N(0, B (x) A + d I) || N(0, .)) is
  /// least. Both factors are of the form (factor + a multiple of I), as for pi.
  kKullbackLeibler,
};

/// How a layer-wise operator is damped.
struct DampingOptions {
  double damping = 1e-3;                             ///< d
  KroneckerDamping kind = KroneckerDamping::kExact;  ///< of blocks that are Kronecker products
  bool relative = false;  ///< d counts in units of each block's mean eigenvalue
};

/// A layer-wise operator with damping in each block; blocks that are not Kronecker products are
/// damped exactly. The factored kinds invert by Cholesky factors, about ten times cheaper than
/// eigenvectors, but add cross terms; pi makes the trace of these smallest. The nearest one in the
/// sense of Kullback and Leibler needs the factors' eigenvalues, without vectors; its inverse is
/// closer to the exact one than pi's, though not always the better preconditioner. A block of
/// trace 0 is damped with pi = 1, or by d itself if it is relative. The given operator's factors
/// stay as they are. Martens, Grosse, ICML 2015, section 6.3; k factors as in kfac-jax.
/// @throws OptionError if d is negative or not finite; NotSupportedError where a trace is needed
/// that has no closed form
OperatorPtr damped(const OperatorPtr& layerwise, const DampingOptions& options);

/// `damped(layerwise, options)->inverse()`, block by block: the damped factors of one layer at a
/// time are held, not those of all.
/// @throws as the two do
OperatorPtr damped_inverse(const OperatorPtr& layerwise, const DampingOptions& options);

}  // namespace curvature
