#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature::testing {

struct LawOptions {
  /// Largest error relative to the norm of the result, and to |A| |x| where terms cancel. 0 means
  /// 1e-10 for float64 and 1e-4 for float32. Closed forms get this times the condition number.
  double tolerance = 0;
  uint64_t seed = 0;
  /// Whether A^T x is there; where it is not, it must be refused with NotSupportedError.
  bool has_adjoint = true;
};

/// Checks with Boost.Test that `a` keeps every law of a linear operator and is the matrix
/// `dense_twin`, a float64 matrix `[rows, cols]` on the operator's device:
///
/// products and adjoint products of vectors, matrices (also without columns) and lists; linearity;
/// declared symmetry and definiteness; same bits twice and from several threads; operands left
/// alone, results without graph; errors for wrong shapes and dtypes that name the operator; every
/// closed form that it offers.
void check_operator_laws(const LinearOperator& a, const at::Tensor& dense_twin,
                         const LawOptions& options = {});

}  // namespace curvature::testing
