#include <curvature/solvers/minres.hpp>

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "solvers/lockstep.hpp"

namespace curvature {
namespace {

/// Where r lies outside the range of A, |A r| falls to about sqrt(precision) |A| |r| and rises
/// again while x runs away along the null space.
constexpr double kRise = 100;
double suspicious(at::ScalarType dtype) { return dtype == at::kDouble ? 5e-7 : 1e-2; }

/// Lanczos in the inner product of the preconditioner M, and a QR factorisation of its tridiagonal
/// matrix by one reflection [c s; s -c] a step. With y the unnormalised Lanczos vector, v = M y /
/// beta. Paige, Saunders (1975); the residual's recurrence is in Choi, Paige, Saunders, SIAM J.
/// Sci. Comput. 33(4), 2011.
class MinresRecurrence final : public detail::Recurrence {
 public:
  MinresRecurrence(const detail::Target& target, bool preconditioned)
      : x_(target.x),
        y_(target.residual),
        y_before_(at::zeros_like(y_)),
        v_(at::empty_like(y_)),
        d_(at::zeros_like(y_)),
        d_before_(at::zeros_like(y_)),
        w_(preconditioned ? y_.clone() : at::Tensor()),
        tolerance_(target.tolerance),
        norm_(detail::norm(y_)) {}

  at::Tensor second_operand() const override { return y_; }

  std::optional<Termination> take_second(const at::Tensor& z) override {
    const double square = detail::inner(y_, z);
    if (!std::isfinite(square)) return Termination::kNonFinite;
    CURVATURE_CHECK(square >= 0, NumericalError,
                    "minres: the preconditioner is not positive definite; expected r^T M r >= 0, "
                    "got {}",
                    square);
    beta_before_ = std::exchange(beta_, std::sqrt(square));
    if (beta_before_ == 0) {
      phi_ = beta_;
      if (w_.defined()) w_.div_(beta_);
    } else if (const auto end = minimise()) {
      return end;
    }
    v_.copy_(z).div_(beta_);
    return std::nullopt;
  }

  at::Tensor first_operand() const override { return v_; }

  std::optional<Termination> take_first(const at::Tensor& product) override {
    const double factor = beta_before_ == 0 ? 0 : -beta_ / beta_before_;
    y_before_.mul_(factor).add_(product);
    alpha_ = detail::inner(v_, y_before_);
    y_before_.sub_(y_, alpha_ / beta_);
    std::swap(y_, y_before_);
    return std::isfinite(alpha_) ? std::nullopt : std::optional(Termination::kNonFinite);
  }

  double residual_norm() const override { return norm_; }

 private:
  /// Takes the column (beta_before, alpha, beta) of T into the factorisation, and x along.
  std::optional<Termination> minimise() {
    const double epsilon = std::exchange(epsilon_, sine_ * beta_);
    const double delta = cosine_ * delta_ + sine_ * alpha_;
    const double gamma_bar = sine_ * delta_ - cosine_ * alpha_;
    delta_ = -cosine_ * beta_;
    largest_column_ = std::max(largest_column_, std::hypot(beta_before_, alpha_, beta_));
    if (is_least_squares(std::hypot(gamma_bar, delta_))) return Termination::kStagnated;

    const double gamma = std::hypot(gamma_bar, beta_);
    cosine_ = gamma_bar / gamma;
    sine_ = beta_ / gamma;
    d_before_.mul_(-epsilon / gamma).add_(v_, 1 / gamma).sub_(d_, delta / gamma);
    std::swap(d_, d_before_);
    x_.add_(d_, cosine_ * phi_);
    phi_ *= sine_;
    if (w_.defined() && beta_ > 0) w_.mul_(sine_).sub_(y_, cosine_ / beta_);
    norm_ = w_.defined() ? phi_ * detail::norm(w_) : phi_;
    if (!std::isfinite(norm_)) return Termination::kNonFinite;
    if (norm_ <= tolerance_) return Termination::kConverged;
    return std::nullopt;
  }

  /// Whether x, before this step, has nothing left to gain, given |A r| / |r|; goes back to the
  /// best x if it has been passed.
  bool is_least_squares(double normal_residual) {
    if (normal_residual <= suspicious(x_.scalar_type()) * largest_column_ &&
        normal_residual < best_normal_residual_) {
      best_normal_residual_ = normal_residual;
      best_norm_ = norm_;
      best_x_ = best_x_.defined() ? best_x_.copy_(x_) : x_.clone();
    }
    if (!best_x_.defined()) return false;
    const bool passed = normal_residual > kRise * best_normal_residual_ && norm_ > best_norm_ / 2;
    if (passed) x_.copy_(best_x_);
    return passed || normal_residual == 0;
  }

  at::Tensor x_, y_, y_before_, v_;
  at::Tensor d_, d_before_;  // the last two directions of x
  at::Tensor w_;             // residual / phi, with a preconditioner
  double tolerance_;
  double norm_;
  double alpha_ = 0, beta_ = 0, beta_before_ = 0;  // of T
  double cosine_ = -1, sine_ = 0;
  double delta_ = 0, epsilon_ = 0;  // of the next columns of the factor
  double phi_ = 0;                  // norm of the residual, in the norm of M
  double largest_column_ = 0;       // estimates |A|
  at::Tensor best_x_;               // of the smallest |A r| / |r|, once that is suspicious
  double best_normal_residual_ = std::numeric_limits<double>::infinity();
  double best_norm_ = 0;
};

class Minres final : public Solver {
 public:
  explicit Minres(IterationOptions options) : options_(std::move(options)) {
    detail::check_iteration_options(options_, "minres");
  }

  SolverPtr adjoint() const override { return minres(detail::adjoint_options(options_)); }

 protected:
  Solution solve_impl(const LinearOperator& a, const at::Tensor& b,
                      const at::Tensor& start) const override {
    detail::check_symmetric(a, "minres");
    detail::check_preconditioner(a, options_.preconditioner, "minres");
    const bool preconditioned = options_.preconditioner != nullptr;
    return detail::solve_in_lockstep(a, b, start, options_,
                                     {.task = "Minimal residuals",
                                      .preconditioner = options_.preconditioner.get(),
                                      .make = [preconditioned](const detail::Target& target) {
                                        return std::make_unique<MinresRecurrence>(target,
                                                                                  preconditioned);
                                      }});
  }

 private:
  IterationOptions options_;
};

}  // namespace

SolverPtr minres(const IterationOptions& options) { return std::make_shared<Minres>(options); }

}  // namespace curvature
