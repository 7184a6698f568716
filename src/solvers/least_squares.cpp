#include <curvature/solvers/least_squares.hpp>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/operators/function_operator.hpp>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "solvers/lockstep.hpp"

namespace curvature {
namespace {

/// Golub-Kahan bidiagonalisation of A from b: beta u = A v - alpha u, alpha v = A^T u - beta v with
/// unit u and v. A derived class solves the bidiagonal least-squares problem as it grows.
class Bidiagonalization : public detail::Recurrence {
 public:
  /// `normal_tolerance` is for |A^T r| / (|A| |r|); 0 if only a small residual will do.
  Bidiagonalization(const detail::Target& target, double normal_tolerance)
      : x_(target.x),
        v_(at::zeros_like(target.x)),
        beta_(detail::norm(target.residual)),
        residual_(beta_),
        u_(target.residual.div_(beta_)),
        tolerance_(target.tolerance),
        normal_tolerance_(normal_tolerance) {}

  at::Tensor second_operand() const final { return u_; }

  std::optional<Termination> take_second(const at::Tensor& product) final {
    v_.mul_(-beta_).add_(product);
    if (!started_) v_.copy_(product);
    alpha_ = detail::norm(v_);
    if (!std::isfinite(alpha_)) return Termination::kNonFinite;
    if (alpha_ > 0) v_.div_(alpha_);
    norm_squared_ += alpha_ * alpha_;
    if (started_) {
      advance();
    } else {
      started_ = true;
      normal_residual_ = alpha_ * beta_;
      start();
    }
    return verdict();
  }

  at::Tensor first_operand() const final { return v_; }

  std::optional<Termination> take_first(const at::Tensor& product) final {
    u_.mul_(-alpha_).add_(product);
    beta_ = detail::norm(u_);
    if (!std::isfinite(beta_)) return Termination::kNonFinite;
    if (beta_ > 0) u_.div_(beta_);
    norm_squared_ += beta_ * beta_;
    return std::nullopt;
  }

  double residual_norm() const final { return residual_; }

 protected:
  /// Takes the first alpha, beta and v.
  virtual void start() = 0;
  /// Takes the next ones; updates x, `residual_` and `normal_residual_`.
  virtual void advance() = 0;

  at::Tensor x_, v_;
  double alpha_ = 0;
  double beta_;
  double residual_;             // |b - A x|
  double normal_residual_ = 0;  // |A^T (b - A x)|

 private:
  std::optional<Termination> verdict() const {
    if (!std::isfinite(residual_)) return Termination::kNonFinite;
    if (residual_ <= tolerance_) return Termination::kConverged;
    const double norm = std::sqrt(norm_squared_);  // estimates |A|_F
    if (normal_residual_ <= normal_tolerance_ * norm * residual_) return Termination::kConverged;
    const double rounding = x_.scalar_type() == at::kDouble ? 1e-15 : 1e-7;
    if (normal_residual_ <= rounding * norm * residual_) return Termination::kStagnated;
    return std::nullopt;
  }

  at::Tensor u_;
  double tolerance_;
  double normal_tolerance_;
  double norm_squared_ = 0;
  bool started_ = false;
};

/// Fong, Saunders (2011), section 2.8, for the plain problem; the norm of the residual is that of
/// section 3.
class LsmrRecurrence final : public Bidiagonalization {
 public:
  using Bidiagonalization::Bidiagonalization;

 private:
  void start() override {
    h_ = v_.clone();
    h_bar_ = at::zeros_like(v_);
    alpha_bar_ = alpha_;
    zeta_bar_ = alpha_ * beta_;
    beta_dd_ = beta_;
  }

  void advance() override {
    const double rho_before = std::exchange(rho_, std::hypot(alpha_bar_, beta_));
    const double c = alpha_bar_ / rho_, s = beta_ / rho_;
    const double theta = s * alpha_;
    alpha_bar_ = c * alpha_;

    const double rho_bar_before = rho_bar_, zeta_before = zeta_;
    const double theta_bar = s_bar_ * rho_;
    const double rho_temp = c_bar_ * rho_;
    rho_bar_ = std::hypot(rho_temp, theta);
    c_bar_ = rho_temp / rho_bar_;
    s_bar_ = theta / rho_bar_;
    zeta_ = c_bar_ * zeta_bar_;
    zeta_bar_ *= -s_bar_;

    h_bar_.mul_(-theta_bar * rho_ / (rho_before * rho_bar_before)).add_(h_);
    x_.add_(h_bar_, zeta_ / (rho_ * rho_bar_));
    h_.mul_(-theta / rho_).add_(v_);
    normal_residual_ = std::abs(zeta_bar_);
    update_residual(c, s, theta_bar, zeta_before);
  }

  void update_residual(double c, double s, double theta_bar, double zeta_before) {
    const double beta_hat = c * beta_dd_;
    beta_dd_ *= -s;
    const double rho_tilde = std::hypot(rho_d_, theta_bar);
    const double c_tilde = rho_d_ / rho_tilde, s_tilde = theta_bar / rho_tilde;
    const double theta_tilde_before = std::exchange(theta_tilde_, s_tilde * rho_bar_);
    rho_d_ = c_tilde * rho_bar_;
    beta_d_ = -s_tilde * beta_d_ + c_tilde * beta_hat;
    tau_tilde_ = (zeta_before - theta_tilde_before * tau_tilde_) / rho_tilde;
    const double tau_d = (zeta_ - theta_tilde_ * tau_tilde_) / rho_d_;
    residual_ = std::hypot(beta_d_ - tau_d, beta_dd_);
  }

  at::Tensor h_, h_bar_;
  double alpha_bar_ = 0, zeta_ = 0, zeta_bar_ = 0;
  double rho_ = 1, rho_bar_ = 1, c_bar_ = 1, s_bar_ = 0;
  // A dot or two and a tilde in the paper.
  double beta_d_ = 0, beta_dd_ = 0, rho_d_ = 1, theta_tilde_ = 0, tau_tilde_ = 0;
};

/// Paige, Saunders (1982), algorithm LSQR.
class LsqrRecurrence final : public Bidiagonalization {
 public:
  using Bidiagonalization::Bidiagonalization;

 private:
  void start() override {
    w_ = v_.clone();
    rho_bar_ = alpha_;
    phi_bar_ = beta_;
  }

  void advance() override {
    const double rho = std::hypot(rho_bar_, beta_);
    const double c = rho_bar_ / rho, s = beta_ / rho;
    const double theta = s * alpha_;
    rho_bar_ = -c * alpha_;
    x_.add_(w_, c * phi_bar_ / rho);
    phi_bar_ *= s;
    w_.mul_(-theta / rho).add_(v_);
    residual_ = phi_bar_;
    normal_residual_ = phi_bar_ * alpha_ * std::abs(c);
  }

  at::Tensor w_;
  double rho_bar_ = 0, phi_bar_ = 0;
};

OperatorSpec flat_spec(const LinearOperator& a, int64_t domain, int64_t range) {
  return {.domain = Space::flat(domain),
          .range = Space::flat(range),
          .dtype = a.spec().dtype,
          .device = a.spec().device};
}

std::vector<double> column_lengths(const at::Tensor& x) {
  std::vector<double> norms;
  for (int64_t k = 0; k < x.size(1); ++k) {
    norms.push_back(detail::scaled_norm(x.select(1, k).contiguous()));
  }
  return norms;
}

/// [A; damping I]: damped least squares as plain ones.
OperatorPtr stacked(const LinearOperator& a, double damping) {
  return function_operator(
      flat_spec(a, a.cols(), a.rows() + a.cols()),
      [&a, damping](const at::Tensor& x) {
        return at::cat({a.apply(x), x * damping});
      },
      [&a, damping](const at::Tensor& y) {
        return a.apply_adjoint(y.narrow(0, 0, a.rows()))
            .add(y.narrow(0, a.rows(), a.cols()), damping);
      });
}

/// A M.
OperatorPtr preconditioned(const LinearOperator& a, const LinearOperator& m) {
  return function_operator(
      flat_spec(a, m.cols(), a.rows()),
      [&a, &m](const at::Tensor& y) { return a.apply(m.apply(y)); },
      [&a, &m](const at::Tensor& x) { return m.apply_adjoint(a.apply_adjoint(x)); });
}

using MakeRecurrence = std::unique_ptr<detail::Recurrence> (*)(const detail::Target&,
                                                               double normal_tolerance);

template <class R>
std::unique_ptr<detail::Recurrence> make_recurrence(const detail::Target& target,
                                                    double normal_tolerance) {
  return std::make_unique<R>(target, normal_tolerance);
}

class LeastSquares final : public Solver {
 public:
  LeastSquares(LeastSquaresOptions options, std::string_view task, MakeRecurrence make)
      : options_(std::move(options)), task_(task), make_(make) {
    detail::check_iteration_options(options_.iteration, task);
    CURVATURE_CHECK(options_.damping >= 0 && std::isfinite(options_.damping), OptionError,
                    "{}: damping must be finite and not negative; got {}", task, options_.damping);
  }

  SolverPtr adjoint() const override {
    LeastSquaresOptions options = options_;
    options.iteration = detail::adjoint_options(options.iteration);
    return std::make_shared<LeastSquares>(options, task_, make_);
  }

 protected:
  Solution solve_impl(const LinearOperator& a, const at::Tensor& b,
                      const at::Tensor& start) const override {
    if (options_.damping == 0) return solve_preconditioned(a, b, start);
    const at::Tensor zeros = at::zeros({a.cols(), b.size(1)}, b.options());
    return solve_preconditioned(*stacked(a, options_.damping), at::cat({b, zeros}), start);
  }

 private:
  Solution solve_preconditioned(const LinearOperator& a, const at::Tensor& b,
                                const at::Tensor& start) const {
    const OperatorPtr& m = options_.iteration.preconditioner;
    if (m == nullptr) return solve_plain(a, b, start);
    CURVATURE_CHECK(m->rows() == a.cols(), ShapeError,
                    "{}: expected a preconditioner with {} rows, got {}", task_, a.cols(),
                    m->rows());
    if (start.defined()) return solve_from(a, *m, b, start);
    Solution solution = solve_plain(*preconditioned(a, *m), b, {});
    solution.x = m->apply(solution.x);
    return solution;
  }

  /// x = start + M y, and y solves for what the start leaves, to a part of |b|.
  Solution solve_from(const LinearOperator& a, const LinearOperator& m, const at::Tensor& b,
                      const at::Tensor& start) const {
    const std::vector<double> norms = column_lengths(b);
    const at::Tensor zero_column = b.eq(0).all(0);  // is solved by zero, whatever the start
    const at::Tensor first = start.masked_fill(zero_column, 0);
    Solution solution = solve_plain(*preconditioned(a, m), b - a.apply(first), {}, norms);
    solution.x = m.apply(solution.x) + first;
    solution.report.products += 2 * b.size(1);
    take_true_residuals(column_lengths(b - a.apply(solution.x)), norms, a.rows() != a.cols(),
                        solution.report);
    return solution;
  }

  /// A start that is much larger than the solution leaves rounding that only x itself shows.
  void take_true_residuals(std::vector<double> residuals, const std::vector<double>& norms,
                           bool least_squares, SolveReport& report) const {
    const IterationOptions& wanted = options_.iteration;
    for (size_t k = 0; k < residuals.size(); ++k) {
      report.relative_residuals[k] = norms[k] == 0 ? 0 : residuals[k] / norms[k];
      const double allowed =
          std::max(wanted.relative_residual * norms[k], wanted.absolute_residual);
      if (!least_squares && report.terminations[k] == Termination::kConverged &&
          !(residuals[k] <= allowed)) {
        report.terminations[k] = Termination::kStagnated;
      }
      report.termination = detail::worse(report.termination, report.terminations[k]);
    }
    report.residuals = std::move(residuals);
  }

  Solution solve_plain(const LinearOperator& a, const at::Tensor& b, const at::Tensor& start,
                       const std::vector<double>& reference_norms = {}) const {
    const bool least_squares = a.rows() != a.cols();
    const double normal_tolerance = least_squares ? options_.iteration.relative_residual : 0;
    return detail::solve_in_lockstep(
        a, b, start, options_.iteration,
        {.task = task_,
         .second_is_adjoint = true,
         .least_squares = least_squares,
         .reference_norms = reference_norms,
         .make = [this, normal_tolerance](const detail::Target& target) {
           return make_(target, normal_tolerance);
         }});
  }

  LeastSquaresOptions options_;
  std::string_view task_;
  MakeRecurrence make_;
};

}  // namespace

SolverPtr lsmr(const LeastSquaresOptions& options) {
  return std::make_shared<LeastSquares>(options, "LSMR", &make_recurrence<LsmrRecurrence>);
}

SolverPtr lsqr(const LeastSquaresOptions& options) {
  return std::make_shared<LeastSquares>(options, "LSQR", &make_recurrence<LsqrRecurrence>);
}

}  // namespace curvature
