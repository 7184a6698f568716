#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/optim/cubic_model.hpp>

#include "core/check.hpp"

namespace curvature::optim {
namespace {

/// -g / (l + s) along each eigenvector; 0 where the gradient has no part and nothing is divided.
at::Tensor step_at(const at::Tensor& eigenvalues, const at::Tensor& gradient, double shift) {
  return at::where(gradient == 0, at::zeros_like(gradient), -gradient / (eigenvalues + shift));
}

/// The s > `lowest` with |h(s)| = 2 s / coefficient, by bisection: the left side falls, the right
/// side rises.
double secular_root(const at::Tensor& eigenvalues, const at::Tensor& gradient, double coefficient,
                    double lowest) {
  double low = lowest;
  double high = lowest + std::sqrt(coefficient * gradient.norm().item<double>() / 2);
  while (true) {
    const double middle = low + (high - low) / 2;
    if (middle <= low || middle >= high) return high;
    const double length = step_at(eigenvalues, gradient, middle).norm().item<double>();
    (length > 2 * middle / coefficient ? low : high) = middle;
  }
}

}  // namespace

CubicMinimum minimize_cubic(const at::Tensor& hessian, const at::Tensor& gradient,
                            double coefficient) {
  CURVATURE_CHECK(coefficient > 0 && std::isfinite(coefficient), OptionError,
                  "minimize_cubic: the coefficient must be positive; got {}", coefficient);
  const auto [l, q] = at::linalg_eigh(hessian);
  at::Tensor g = q.t().mv(gradient);
  const double scale = l.abs().max().item<double>();
  // Below zero by rounding is not a way down.
  const double lowest = l[0].item<double>() < -1e-12 * scale ? -l[0].item<double>() : 0;
  // Parts along the lowest eigenspace at rounding level are none: dividing by them would only
  // choose a sign.
  const at::Tensor is_lowest = l <= l[0] + 1e-12 * scale;
  at::Tensor rest = at::where(is_lowest, at::zeros_like(g), g);
  const bool has_part = (g - rest).norm().item<double>() > 1e-14 * gradient.norm().item<double>();
  at::Tensor h;
  if (!has_part && lowest > 0 &&
      step_at(l, rest, lowest).norm().item<double>() < 2 * lowest / coefficient) {
    h = step_at(l, rest, lowest);
    const double length = h.norm().item<double>(), whole = 2 * lowest / coefficient;
    h[0] = std::sqrt(whole * whole - length * length);
  } else if (g.norm().item<double>() == 0) {
    h = at::zeros_like(g);
  } else {
    h = step_at(l, g, secular_root(l, g, coefficient, lowest));
  }
  const double length = h.norm().item<double>();
  const double value =
      (g * h + 0.5 * l * h * h).sum().item<double>() + coefficient / 6 * length * length * length;
  return {q.mv(h), value};
}

}  // namespace curvature::optim
