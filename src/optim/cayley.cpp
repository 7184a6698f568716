#include "optim/cayley.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_solve.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/where.h>

#include "core/matrix_product.hpp"
#include "optim/mode_algebra.hpp"

namespace curvature::optim {

at::Tensor rotation(const at::Tensor& t, const at::Tensor& e, double rate, double gap_tolerance,
                    double max_rotation) {
  // T is symmetric and the gaps are antisymmetric, so the whole quotient is Z - Z^T.
  const at::Tensor gaps = e.unsqueeze(0) - e.unsqueeze(1);
  at::Tensor n = at::where(gaps.abs() > gap_tolerance, t / gaps, 0.0).mul_(rate / 2);
  const double norm = at::linalg_vector_norm(n).item<double>();
  if (norm > max_rotation) n.mul_(max_rotation / norm);
  return n;
}

at::Tensor turned(const at::Tensor& q, const at::Tensor& n) {
  if (n.scalar_type() == at::kDouble || n.scalar_type() == at::kFloat) {
    at::Tensor minus = -n;
    minus.diagonal().add_(1);
    at::Tensor plus = n.clone();
    plus.diagonal().add_(1);
    return at::linalg_solve(minus, curvature::detail::matrix_product(q, plus), /*left=*/false);
  }
  at::Tensor result = q + q.mm(n);
  at::Tensor power = n;
  for (int factor = 0; factor < 4; ++factor) {
    result = result + result.mm(power);
    if (factor < 3) power = power.mm(power);
  }
  return result;
}

at::Tensor orthogonalized(const at::Tensor& q) {
  at::Tensor inner = mode_gram(q, 1).mul_(-0.5);
  inner.diagonal().add_(1.5);
  return curvature::detail::matrix_product(q, inner);
}

}  // namespace curvature::optim
