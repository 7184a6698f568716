#include <algorithm>
#include <cmath>
#include <tuple>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>

#include <curvature/spectral/lanczos.hpp>

#include "core/check.hpp"
#include "spectral/inner_products.hpp"

namespace curvature {
namespace {

/// Relative to the largest entry of T, what a residual of pure rounding looks like. Taking it for a
/// breakdown too late costs a few products; too early would lose a spectrum far below its outliers.
double breakdown_threshold(at::ScalarType dtype) { return dtype == at::kDouble ? 1e-13 : 1e-6; }

double norm(const at::Tensor& x) {
  return at::linalg_vector_norm(x, 2, std::nullopt, false, at::kDouble).item<double>();
}

void check_arguments(const LinearOperator& a, const at::Tensor& start,
                     const LanczosOptions& options) {
  const OperatorSpec& spec = a.spec();
  CURVATURE_CHECK(a.is_symmetric(), NotSupportedError,
                  "lanczos: expected a symmetric operator, got {}", a.describe());
  CURVATURE_CHECK(spec.dtype == at::kDouble || spec.dtype == at::kFloat, NotSupportedError,
                  "lanczos: expected an operator in float32 or float64, got {} in {}", a.describe(),
                  c10::toString(spec.dtype));
  CURVATURE_CHECK(options.num_steps > 0, OptionError, "lanczos: num_steps must be positive; got {}",
                  options.num_steps);
  CURVATURE_CHECK(start.defined() && start.dim() == 1 && start.size(0) == a.rows(), ShapeError,
                  "lanczos: expected a start vector [{}], got {}", a.rows(),
                  start.defined() ? detail::to_string(start.sizes()) : "an undefined tensor");
  CURVATURE_CHECK(
      start.scalar_type() == spec.dtype && start.device() == spec.device, DtypeDeviceError,
      "lanczos: expected a start vector of {} on {}, got {} on {}; convert it with .to()",
      c10::toString(spec.dtype), spec.device.str(), c10::toString(start.scalar_type()),
      start.device().str());
}

/// V^T w of rows V^T `[m, n]`, float64 on the CPU.
at::Tensor components(const at::Tensor& rows, const at::Tensor& w) {
  return detail::inner_products(rows.t(), w.unsqueeze(1)).select(1, 0);
}

/// The vectors of the recurrence: all of them in rows, or the last three.
class KrylovVectors {
 public:
  KrylovVectors(const at::Tensor& start, int64_t num_steps, bool keep_all)
      : buffer_(at::empty({keep_all ? num_steps + 1 : 3, start.size(0)}, start.options())),
        keep_all_(keep_all) {}

  at::Tensor row(int64_t j) const { return buffer_.select(0, keep_all_ ? j : j % 3); }
  at::Tensor rows(int64_t count) const { return buffer_.narrow(0, 0, count); }

  /// Makes row j + 1, which holds A v_j, orthogonal to the rows before; returns alpha_j, beta_j.
  std::pair<double, double> remove_components(int64_t j, double last_beta) {
    at::Tensor w = row(j + 1);
    if (j > 0) w.sub_(row(j - 1), last_beta);
    double alpha = components(row(j).unsqueeze(0), w).item<double>();
    w.sub_(row(j), alpha);
    double beta = norm(w);
    if (!keep_all_) return {alpha, beta};

    // What is left along the basis is rounding: one pass removes it, unless w itself is little
    // more.
    const at::Tensor basis = rows(j + 1);
    for (int pass = 0; pass < 2; ++pass) {
      const at::Tensor coefficients = components(basis, w);
      w.addmv_(basis.t(), coefficients.to(w.options()), 1, -1);
      basis_passes_ += 2;
      alpha += coefficients[j].item<double>();  // in float32, most of the dot product's own error
      const double before = std::exchange(beta, norm(w));
      if (beta > before / 2) break;
    }
    return {alpha, beta};
  }

  int64_t basis_passes() const { return basis_passes_; }

 private:
  at::Tensor buffer_;
  bool keep_all_;
  int64_t basis_passes_ = 0;
};

}  // namespace

LanczosResult lanczos(const LinearOperator& a, const at::Tensor& start,
                      const LanczosOptions& options) {
  check_arguments(a, start, options);
  const at::NoGradGuard no_grad;
  const int64_t n = a.rows();
  const int64_t num_steps = std::min(options.num_steps, n);

  LanczosResult run;
  run.start_norm = norm(start);
  CURVATURE_CHECK(std::isfinite(run.start_norm), NumericalError,
                  "lanczos: the start vector is not finite");
  CURVATURE_CHECK(run.start_norm > 0, OptionError, "lanczos: the start vector is zero");

  KrylovVectors vectors(start, num_steps, options.reorthogonalize);
  vectors.row(0).copy_(start).div_(run.start_norm);
  double scale = 0;
  double beta = 0;
  for (int64_t j = 0; j < num_steps && !run.breakdown; ++j) {
    at::Tensor w = vectors.row(j + 1);
    w.copy_(a.apply(vectors.row(j)));
    double alpha = 0;
    std::tie(alpha, beta) = vectors.remove_components(j, beta);
    CURVATURE_CHECK(std::isfinite(alpha) && std::isfinite(beta), NumericalError,
                    "lanczos: product {} of {} is not finite", j + 1, a.describe());
    scale = std::max({scale, std::abs(alpha), beta});
    run.breakdown = j + 1 == n || beta <= breakdown_threshold(a.spec().dtype) * scale;
    if (run.breakdown) {
      beta = 0;
    } else {
      w.div_(beta);
    }
    run.alphas.push_back(alpha);
    run.betas.push_back(beta);
    if (options.observer) options.observer({"Lanczos steps", j + 1, num_steps});
  }
  run.basis_passes = vectors.basis_passes();
  if (options.reorthogonalize) {
    run.basis = vectors.rows(run.num_steps());
    if (!run.breakdown) run.next = vectors.row(run.num_steps());
  }
  return run;
}

at::Tensor ritz_vectors(const LanczosResult& run, const RitzPairs& ritz, int64_t first,
                        int64_t count) {
  CURVATURE_CHECK(run.basis.defined(), OptionError,
                  "ritz_vectors: the Lanczos run kept no basis; reorthogonalize");
  CURVATURE_CHECK(first >= 0 && count >= 0 && first + count <= run.num_steps(), OptionError,
                  "ritz_vectors: expected a range within {} pairs, got first {} and count {}",
                  run.num_steps(), first, count);
  return run.basis.t().matmul(ritz.coefficients.narrow(1, first, count).to(run.basis.options()));
}

}  // namespace curvature
