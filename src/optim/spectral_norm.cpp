#include "optim/spectral_norm.hpp"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/dot.h>
#include <ATen/ops/linalg_eigvalsh.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/mv.h>

#include <curvature/core/random.hpp>
#include <curvature/spectral/lanczos.hpp>

namespace curvature::optim {
namespace {

/// The largest eigenvalue of A, or of A^T A, by the three-term recurrence: copies of converged
/// eigenvalues, which it makes without orthogonalisation, do not move the largest.
double by_lanczos(const at::Tensor& a, bool antisymmetric) {
  constexpr int64_t kMaxSteps = 200, kStepsPerCheck = 4;
  // The error of a Ritz value is of the order of its residual squared. In float32 the norm bounds a
  // step, for which three digits would do.
  const double tolerance = a.scalar_type() == at::kDouble ? 1e-8 : 1e-3;
  const int64_t n = a.size(0);
  LanczosResult run;
  at::Tensor v = RandomSource(0).normal(0, n).to(a.options());
  v /= at::linalg_vector_norm(v);
  at::Tensor previous;
  for (int64_t step = 1; step <= std::min(n, kMaxSteps); ++step) {
    at::Tensor w = at::mv(a, v);
    if (antisymmetric) w = at::mv(a, w).neg_();
    if (previous.defined()) w.sub_(previous, run.betas.back());
    run.alphas.push_back(at::dot(w, v).item<double>());
    w.sub_(v, run.alphas.back());
    run.betas.push_back(at::linalg_vector_norm(w).item<double>());
    const double beta = run.betas.back();
    if (!std::isfinite(beta)) return beta;
    if (step % kStepsPerCheck == 0 || beta == 0 || step == n) {
      const RitzPairs ritz = ritz_pairs(run);
      if (ritz.residuals.back() <= tolerance * ritz.values.back()) return ritz.values.back();
    }
    previous = v;
    v = w.div_(beta);
  }
  return ritz_pairs(run).values.back();
}

}  // namespace

double spectral_norm(const at::Tensor& a, bool antisymmetric) {
  constexpr int64_t kSmall = 48;
  if (a.scalar_type() != at::kDouble && a.scalar_type() != at::kFloat) {
    return spectral_norm(a.to(at::kFloat), antisymmetric);
  }
  const bool small = a.size(0) <= kSmall;
  const double largest =
      small ? at::linalg_eigvalsh(antisymmetric ? a.t().mm(a) : a)[-1].item<double>()
            : by_lanczos(a, antisymmetric);
  return antisymmetric ? std::sqrt(std::max(largest, 0.0)) : std::max(largest, 0.0);
}

}  // namespace curvature::optim
