#include <curvature/solvers/conjugate_gradient.hpp>

#include <cmath>

#include <ATen/ops/empty_like.h>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "solvers/lockstep.hpp"

namespace curvature {
namespace {

/// Algorithm 9.1 of Saad, "Iterative Methods for Sparse Linear Systems", 2003.
class ConjugateGradientRecurrence final : public detail::Recurrence {
 public:
  explicit ConjugateGradientRecurrence(const detail::Target& target)
      : x_(target.x),
        r_(target.residual),
        p_(at::empty_like(target.x)),
        tolerance_(target.tolerance),
        norm_(detail::norm(r_)) {}

  at::Tensor second_operand() const override { return r_; }

  std::optional<Termination> take_second(const at::Tensor& z) override {
    const double rho = z.is_same(r_) ? norm_ * norm_ : detail::inner(r_, z);
    if (!std::isfinite(rho)) return Termination::kNonFinite;
    CURVATURE_CHECK(rho > 0, NumericalError,
                    "conjugate_gradient: the preconditioner is not positive definite; expected "
                    "r^T M r > 0, got {}; add damping",
                    rho);
    if (rho_ == 0) {
      p_.copy_(z);
    } else {
      p_.mul_(rho / rho_).add_(z);
    }
    rho_ = rho;
    return std::nullopt;
  }

  at::Tensor first_operand() const override { return p_; }

  std::optional<Termination> take_first(const at::Tensor& q) override {
    const double curvature = detail::inner(p_, q);
    if (!std::isfinite(curvature)) return Termination::kNonFinite;
    if (curvature <= 0) {
      is_negative_ = true;
      return Termination::kNegativeCurvature;
    }
    const double alpha = rho_ / curvature;
    x_.add_(p_, alpha);
    r_.sub_(q, alpha);
    norm_ = detail::norm(r_);
    if (!std::isfinite(norm_)) return Termination::kNonFinite;
    if (norm_ <= tolerance_) return Termination::kConverged;
    return std::nullopt;
  }

  double residual_norm() const override { return norm_; }
  at::Tensor negative_direction() const override { return is_negative_ ? p_ : at::Tensor(); }

 private:
  at::Tensor x_, r_, p_;
  double tolerance_;
  double norm_;
  double rho_ = 0;
  bool is_negative_ = false;
};

class ConjugateGradient final : public Solver {
 public:
  explicit ConjugateGradient(IterationOptions options) : options_(std::move(options)) {
    detail::check_iteration_options(options_, "conjugate_gradient");
  }

  SolverPtr adjoint() const override {
    return conjugate_gradient(detail::adjoint_options(options_));
  }

 protected:
  Solution solve_impl(const LinearOperator& a, const at::Tensor& b,
                      const at::Tensor& start) const override {
    detail::check_symmetric(a, "conjugate_gradient");
    detail::check_preconditioner(a, options_.preconditioner, "conjugate_gradient");
    return detail::solve_in_lockstep(
        a, b, start, options_,
        {.task = "Conjugate gradients",
         .preconditioner = options_.preconditioner.get(),
         .make = [](const detail::Target& target) {
           return std::make_unique<ConjugateGradientRecurrence>(target);
         }});
  }

 private:
  IterationOptions options_;
};

}  // namespace

SolverPtr conjugate_gradient(const IterationOptions& options) {
  return std::make_shared<ConjugateGradient>(options);
}

}  // namespace curvature
