#include "optim/coupled_root.hpp"

#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_vector_norm.h>

#include "core/matrix_product.hpp"

namespace curvature::optim {
namespace {

using curvature::detail::matrix_product;

at::Tensor whole_power(const at::Tensor& a, int64_t p) {
  at::Tensor result, square = a;
  for (int64_t rest = p; rest > 0; rest /= 2) {
    if (rest % 2 == 1) result = result.defined() ? matrix_product(result, square) : square;
    if (rest > 1) square = matrix_product(square, square);
  }
  return result;
}

double largest_entry(const at::Tensor& a) { return a.abs().max().item<double>(); }

/// sum_{i < order} b_i R^i, by Horner's rule.
at::Tensor series(const at::Tensor& r, int64_t p, int64_t order) {
  const auto coefficient = [p](int64_t i) {
    return (1 + static_cast<double>((i - 1) * p)) / static_cast<double>(i * p);
  };
  at::Tensor t = r * coefficient(order - 1);
  t.diagonal().add_(1);
  for (int64_t i = order - 2; i >= 1; --i) {
    t = matrix_product(r, t).mul_(coefficient(i));
    t.diagonal().add_(1);
  }
  return t;
}

}  // namespace

CoupledRoot coupled_inverse_root(const at::Tensor& a, int64_t p, int64_t order) {
  constexpr int64_t kMaxIterations = 100;
  const double tolerance = a.scalar_type() == at::kDouble ? 1e-10 : 1e-6;
  const at::Tensor eye = at::eye(a.size(0), a.options());
  const double z = static_cast<double>(p + 1) / (2 * at::linalg_vector_norm(a).item<double>());
  at::Tensor m = a * z, x = eye * std::pow(z, 1 / static_cast<double>(p));
  CoupledRoot result;
  double error = std::numeric_limits<double>::infinity();
  while (result.iterations < kMaxIterations) {
    const at::Tensor r = eye - m;
    const double now = largest_entry(r);
    // Small eigenvalues grow by a factor at first, which may leave the largest entry as it is; near
    // I the error is squared, so that one that is not halved is rounding.
    if (now <= tolerance || !(now <= (error < 0.1 ? 0.5 : 1.2) * error)) break;
    error = now;
    const at::Tensor t = series(r, p, result.iterations == 0 ? 2 : order);
    x = matrix_product(x, t);
    m = matrix_product(whole_power(t, p), m);
    ++result.iterations;
  }
  result.root = (x + x.t()).div_(2);
  result.residual = largest_entry(matrix_product(a, whole_power(result.root, p)) - eye);
  return result;
}

bool is_whole_root(double exponent) {
  const double p = std::round(1 / exponent);
  return exponent > 0 && p >= 1 && std::abs(p * exponent - 1) < 1e-12;
}

std::optional<at::Tensor> root_by_products(const at::Tensor& factor, RootMethod method,
                                           double exponent, double epsilon) {
  constexpr double kLargestResidual = 0.1;
  if (method == RootMethod::kEigh) return std::nullopt;
  at::Tensor a = factor.clone();
  a.diagonal().add_(epsilon);
  const CoupledRoot root = coupled_inverse_root(a, static_cast<int64_t>(std::round(1 / exponent)),
                                                method == RootMethod::kNewton ? 2 : 3);
  if (!(root.residual <= kLargestResidual)) return std::nullopt;
  return root.root;
}

}  // namespace curvature::optim
