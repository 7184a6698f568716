#include <curvature/solvers/truncated_conjugate_gradient.hpp>

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "solvers/lockstep.hpp"

namespace curvature {
namespace {

constexpr const char* kTruncatedCg = "truncated_conjugate_gradient";

void check(const LinearOperator& a, const at::Tensor& b, const TruncatedCgOptions& options,
           const at::Tensor& start) {
  detail::check_symmetric(a, kTruncatedCg);
  detail::check_preconditioner(a, options.preconditioner, kTruncatedCg);
  CURVATURE_CHECK(options.max_iterations >= 0 && options.relative_residual >= 0 &&
                      options.progress >= 0 && options.snapshot_growth >= 0,
                  OptionError, "{}: limits must not be negative", kTruncatedCg);
  CURVATURE_CHECK(!options.radius || *options.radius > 0, OptionError,
                  "{}: the radius must be positive; got {}", kTruncatedCg,
                  options.radius.value_or(0));
  CURVATURE_CHECK(!options.radius || (options.preconditioner == nullptr && !start.defined()),
                  OptionError, "{}: a radius goes with neither a start nor a preconditioner",
                  kTruncatedCg);
  for (const at::Tensor& vector : {b, start}) {
    if (!vector.defined()) continue;
    CURVATURE_CHECK(vector.dim() == 1 && vector.size(0) == a.cols(), ShapeError,
                    "{}: expected a vector [{}], got {}", kTruncatedCg, a.cols(),
                    detail::to_string(vector.sizes()));
  }
}

/// Step along p from x to the sphere: |x + t p| = radius, t >= 0.
double distance_to_sphere(const at::Tensor& x, const at::Tensor& p, double radius) {
  const double pp = detail::inner(p, p), xp = detail::inner(x, p), xx = detail::inner(x, x);
  const double gap = std::max(0.0, radius * radius - xx);
  const double root = std::sqrt(xp * xp + pp * gap);
  return xp > 0 ? gap / (xp + root) : (root - xp) / pp;  // without cancellation
}

class Iteration {
 public:
  Iteration(const LinearOperator& a, const at::Tensor& b, const TruncatedCgOptions& options,
            const at::Tensor& start)
      : a_(a),
        options_(options),
        b_(b.detach().contiguous()),
        x_(start.defined() ? start.detach().clone() : at::zeros_like(b_)),
        r_(b_.clone()) {
    if (start.defined()) r_.sub_(a.apply(x_));
    phis_.push_back(phi());
    tolerance_ = options.relative_residual * detail::norm(b_);
  }

  TruncatedCgResult run() {
    result_.end = iterate();
    if (result_.iterates.empty() || kept_ != result_.iterations) keep();
    return std::move(result_);
  }

 private:
  TruncatedCgEnd iterate() {
    if (detail::norm(r_) <= tolerance_) return TruncatedCgEnd::kResidual;
    while (result_.iterations < options_.max_iterations) {
      turn();
      const at::Tensor q = a_.apply(p_);
      const double curvature = detail::inner(p_, q.contiguous());
      CURVATURE_CHECK(std::isfinite(curvature), NumericalError, "{}: a product is not finite",
                      kTruncatedCg);
      if (curvature <= 0) {
        if (options_.radius) advance(distance_to_sphere(x_, p_, *options_.radius), q);
        return TruncatedCgEnd::kNegativeCurvature;
      }
      const double step = rho_ / curvature;
      if (options_.radius) {
        const double limit = distance_to_sphere(x_, p_, *options_.radius);
        if (step >= limit) {
          advance(limit, q);
          return TruncatedCgEnd::kBoundary;
        }
      }
      advance(step, q);
      if (detail::norm(r_) <= tolerance_) return TruncatedCgEnd::kResidual;
      if (stalls()) return TruncatedCgEnd::kProgress;
    }
    return TruncatedCgEnd::kMaxIterations;
  }

  /// Makes the next direction conjugate to the last one.
  void turn() {
    const at::Tensor z =
        options_.preconditioner ? options_.preconditioner->apply(r_).contiguous() : r_;
    const double rho = detail::inner(r_, z);
    CURVATURE_CHECK(std::isfinite(rho) && (rho > 0 || options_.preconditioner == nullptr),
                    NumericalError,
                    "{}: the preconditioner is not positive definite; expected r^T M r > 0, got {}",
                    kTruncatedCg, rho);
    if (p_.defined()) {
      p_.mul_(rho / rho_).add_(z);
    } else {
      p_ = z.clone();
    }
    rho_ = rho;
  }

  void advance(double step, const at::Tensor& q) {
    x_.add_(p_, step);
    r_.sub_(q, step);
    ++result_.iterations;
    phis_.push_back(phi());
    if (options_.snapshot_growth > 1 && result_.iterations >= std::ceil(next_kept_)) {
      keep();
      while (std::ceil(next_kept_) <= static_cast<double>(result_.iterations)) {
        next_kept_ *= options_.snapshot_growth;
      }
    }
  }

  void keep() {
    kept_ = result_.iterations;
    result_.iterates.push_back(x_.clone());
    result_.values.push_back(phis_.back());
  }

  /// phi(x) = -x^T (r + b) / 2, without a product.
  double phi() const { return -0.5 * (detail::inner(x_, r_) + detail::inner(x_, b_)); }

  bool stalls() const {
    if (options_.progress == 0) return false;
    const int64_t i = result_.iterations;
    const int64_t k = std::max<int64_t>(10, (i + 9) / 10);
    if (i <= k) return false;
    const double now = phis_.back(), then = phis_[static_cast<size_t>(i - k)];
    return now < 0 && (now - then) / now < static_cast<double>(k) * options_.progress;
  }

  const LinearOperator& a_;
  const TruncatedCgOptions& options_;
  at::Tensor b_, x_, r_, p_;
  double tolerance_ = 0;
  double rho_ = 0;
  double next_kept_ = 1;
  int64_t kept_ = 0;
  std::vector<double> phis_;
  TruncatedCgResult result_;
};

}  // namespace

TruncatedCgResult truncated_conjugate_gradient(const LinearOperator& a, const at::Tensor& b,
                                               const TruncatedCgOptions& options,
                                               const at::Tensor& start) {
  const at::NoGradGuard no_grad;
  check(a, b, options, start);
  return Iteration(a, b, options, start).run();
}

}  // namespace curvature
