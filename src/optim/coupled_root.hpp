#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include <curvature/optim/shampoo_estimator.hpp>

namespace curvature::optim {

/// A root from products alone, and how far that went.
struct CoupledRoot {
  at::Tensor root;         ///< X, symmetric
  int64_t iterations = 0;  ///< taken
  double residual = 0;     ///< largest entry of |A X^p - I|; above 0.1 the root is not to be used
};

/// X = A^(-1/p) of a symmetric positive definite matrix by the coupled iteration
///
///     M = z A, X = z^(1/p) I;   T = sum_{i < order} b_i (I - M)^i;   X <- X T;   M <- T^p M
///
/// with the coefficients b_i of (1 - x)^(-1/p); order 2 is Newton's. z = (p + 1) / (2 |A|_F), and
/// the first step is Newton's, after which all eigenvalues of M are in (0, 1] and rise to 1. Ends
/// where M is I to 1e-6 in float32 and 1e-10 in float64, or where rounding lets that error grow.
/// Costs order + 1 + log2 p products in an iteration. Guo, Higham, SIAM J. Matrix Anal. Appl.
/// 28(3), 2006; Anil et al., arXiv 2002.09018.
CoupledRoot coupled_inverse_root(const at::Tensor& a, int64_t p, int64_t order);

/// Whether 1 / exponent is a whole number.
bool is_whole_root(double exponent);
/// (S + epsilon I)^-exponent as `shampoo_estimator` needs it; nothing where an eigendecomposition
/// is asked for, or is needed because rounding has spoilt the iteration.
std::optional<at::Tensor> root_by_products(const at::Tensor& factor, RootMethod method,
                                           double exponent, double epsilon);

}  // namespace curvature::optim
