#pragma once

#include <vector>

#include <curvature/core/linear_operator.hpp>

/// \file
/// Algebra of operators. Results with a closed form are built at once (a sum of diagonals is a
/// diagonal, a multiple of a Kronecker product is a Kronecker product, block-diagonal operators
/// combine block by block); everything else is lazy and nested sums and products are flattened.
/// Symmetry is propagated as far as it follows. All functions throw ShapeError if spaces do not
/// match, DtypeDeviceError if dtypes or devices differ, OptionError for a null operator.

namespace curvature {

/// A + B. A product costs one of each.
OperatorPtr sum(const OperatorPtr& a, const OperatorPtr& b);
/// A_1 + ... + A_k. @throws OptionError if there are none
OperatorPtr sum(const std::vector<OperatorPtr>& terms);
/// A - B.
OperatorPtr difference(const OperatorPtr& a, const OperatorPtr& b);
/// A B, B applied first. A product of an operator with its own adjoint is positive semidefinite.
OperatorPtr product(const OperatorPtr& a, const OperatorPtr& b);
/// A_1 ... A_k, the last applied first. @throws OptionError if there are none
OperatorPtr product(const std::vector<OperatorPtr>& factors);
/// factor * A. @throws OptionError if `factor` is not finite
OperatorPtr scaled(const OperatorPtr& a, double factor);
/// A + shift * I. @throws OptionError if `shift` is not finite
OperatorPtr shifted(const OperatorPtr& a, double shift);
/// A^T; a symmetric operator is its own adjoint.
OperatorPtr adjoint(const OperatorPtr& a);

/// A^-1 in closed form.
/// @throws NotSupportedError if there is none, NumericalError if A is singular
OperatorPtr inverse(const OperatorPtr& a);
/// A^exponent. Symmetric operators with a closed-form `function`: any real exponent that the
/// eigenvalues allow (negative ones to integers only, zero ones to positive ones only; eigenvalues
/// that are negative by rounding count as zero). Others: integers, as repeated products.
/// @throws NotSupportedError without a closed form, NumericalError if the eigenvalues do not allow
/// it
OperatorPtr pow(const OperatorPtr& a, double exponent);
/// f(A) = Q diag(f(l)) Q^T for a symmetric A with a closed form.
/// @throws NotSupportedError if there is none
OperatorPtr function(const OperatorPtr& a, const SpectralFunction& f);

/// `sum`
inline OperatorPtr operator+(const OperatorPtr& a, const OperatorPtr& b) { return sum(a, b); }
/// `difference`
inline OperatorPtr operator-(const OperatorPtr& a, const OperatorPtr& b) {
  return difference(a, b);
}
/// `product`
inline OperatorPtr operator*(const OperatorPtr& a, const OperatorPtr& b) { return product(a, b); }
/// `scaled`
inline OperatorPtr operator*(double factor, const OperatorPtr& a) { return scaled(a, factor); }
/// `scaled`
inline OperatorPtr operator*(const OperatorPtr& a, double factor) { return scaled(a, factor); }
/// `scaled` by -1
inline OperatorPtr operator-(const OperatorPtr& a) { return scaled(a, -1); }

}  // namespace curvature
