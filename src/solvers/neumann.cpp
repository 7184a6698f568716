#include <curvature/solvers/neumann.hpp>

#include <algorithm>
#include <cmath>

#include <ATen/ops/empty_like.h>

#include <curvature/spectral/lanczos.hpp>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "solvers/lockstep.hpp"

namespace curvature {
namespace {

/// Growth of the residual that no convergent series shows.
constexpr double kDivergence = 1e3;

/// x <- x + a z, r <- r - a A z with z = M r.
class NeumannRecurrence final : public detail::Recurrence {
 public:
  NeumannRecurrence(const detail::Target& target, double step_size)
      : x_(target.x),
        r_(target.residual),
        z_(at::empty_like(target.x)),
        step_size_(step_size),
        tolerance_(target.tolerance),
        norm_(detail::norm(r_)),
        limit_(kDivergence * norm_) {}

  at::Tensor second_operand() const override { return r_; }

  std::optional<Termination> take_second(const at::Tensor& z) override {
    z_.copy_(z);
    return std::nullopt;
  }

  at::Tensor first_operand() const override { return z_; }

  std::optional<Termination> take_first(const at::Tensor& product) override {
    x_.add_(z_, step_size_);
    r_.sub_(product, step_size_);
    norm_ = detail::norm(r_);
    if (!(norm_ <= limit_)) {
      is_negative_ = detail::inner(z_, product) <= 0;
      return is_negative_ ? Termination::kNegativeCurvature : Termination::kNonFinite;
    }
    if (norm_ <= tolerance_) return Termination::kConverged;
    return std::nullopt;
  }

  double residual_norm() const override { return norm_; }
  at::Tensor negative_direction() const override { return is_negative_ ? z_ : at::Tensor(); }

 private:
  at::Tensor x_, r_, z_;
  double step_size_;
  double tolerance_;
  double norm_;
  double limit_;
  bool is_negative_ = false;
};

class Neumann final : public Solver {
 public:
  explicit Neumann(NeumannOptions options) : options_(std::move(options)) {
    detail::check_iteration_options(options_.iteration, "neumann");
    CURVATURE_CHECK(
        !options_.step_size || (*options_.step_size > 0 && std::isfinite(*options_.step_size)),
        OptionError, "neumann: step_size must be positive; got {}", *options_.step_size);
    CURVATURE_CHECK(options_.estimation_steps > 0, OptionError,
                    "neumann: estimation_steps must be positive; got {}",
                    options_.estimation_steps);
  }

  SolverPtr adjoint() const override {
    NeumannOptions options = options_;
    options.iteration = detail::adjoint_options(options.iteration);
    return neumann(options);
  }

 protected:
  Solution solve_impl(const LinearOperator& a, const at::Tensor& b,
                      const at::Tensor& start) const override {
    CURVATURE_CHECK(a.rows() == a.cols(), ShapeError,
                    "neumann: expected a square operator, got [{}, {}]; use lsmr", a.rows(),
                    a.cols());
    detail::check_preconditioner(a, options_.iteration.preconditioner, "neumann");
    int64_t products = 0;
    const double step_size = options_.step_size ? *options_.step_size : estimate(a, products);
    Solution solution =
        detail::solve_in_lockstep(a, b, start, options_.iteration,
                                  {.task = "Neumann series",
                                   .preconditioner = options_.iteration.preconditioner.get(),
                                   .make = [step_size](const detail::Target& target) {
                                     return std::make_unique<NeumannRecurrence>(target, step_size);
                                   }});
    solution.report.products += products;
    return solution;
  }

 private:
  /// 1 / the largest eigenvalue of M A, which is the one of the tridiagonal matrix of a Lanczos run
  /// in the inner product of M.
  double estimate(const LinearOperator& a, int64_t& products) const {
    CURVATURE_CHECK(a.is_symmetric(), NotSupportedError,
                    "neumann: the step size can be estimated for symmetric operators only, got "
                    "{}; give step_size",
                    a.describe());
    const LinearOperator* m = options_.iteration.preconditioner.get();
    const auto precondition = [m](const at::Tensor& x) {
      return m == nullptr ? x : m->apply(x).contiguous();
    };
    const auto options = at::TensorOptions().dtype(a.spec().dtype).device(a.spec().device);
    at::Tensor y = draw_probes(options_.random, Probe::kGaussian, a.rows(), 0, 1, options)
                       .squeeze(1)
                       .contiguous();
    at::Tensor z = precondition(y);
    double beta = std::sqrt(std::max(detail::inner(y, z), 0.0));
    at::Tensor y_before;
    LanczosResult run;
    while (run.num_steps() < std::min(options_.estimation_steps, a.rows())) {
      CURVATURE_CHECK(beta > 0 && std::isfinite(beta), NumericalError,
                      "neumann: the preconditioner is not positive definite or not finite; "
                      "expected r^T M r > 0, got {}",
                      beta);
      at::Tensor w = a.apply(z.div(beta)).clone();
      ++products;
      if (y_before.defined()) w.sub_(y_before, run.betas.back());
      y_before = y.div(beta);
      const double alpha = detail::inner(w, z) / beta;
      w.sub_(y_before, alpha);
      y = w;
      z = precondition(y);
      beta = std::sqrt(std::max(detail::inner(y, z), 0.0));
      run.alphas.push_back(alpha);
      run.betas.push_back(beta);
      if (beta <= 1e-6 * std::abs(alpha)) break;
    }
    const double largest = ritz_pairs(run).values.back();
    CURVATURE_CHECK(largest > 0, NumericalError,
                    "neumann: expected an operator with positive eigenvalues; the largest one of "
                    "{} is about {}",
                    a.describe(), largest);
    return 1 / largest;
  }

  NeumannOptions options_;
};

}  // namespace

SolverPtr neumann(const NeumannOptions& options) { return std::make_shared<Neumann>(options); }

}  // namespace curvature
