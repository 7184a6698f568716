// Newton's method with a damped matrix: Hessian-free, Levenberg-Marquardt, gradient-regularised.

#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <curvature/layerwise/squared_gradients.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/optim/newton.hpp>
#include <curvature/solvers/direct.hpp>
#include <curvature/solvers/truncated_conjugate_gradient.hpp>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "optim/model_minimizer.hpp"

namespace curvature::optim {
namespace {

using curvature::detail::inner;
using curvature::detail::norm;

struct DampedNewtonOptions {
  std::string name;
  double learning_rate;
  CurvatureFunction curvature;
  DampingControlOptions control;
  TruncatedCgOptions cg;
  int64_t max_attempts = 1;
  bool scale_by_diagonal = false;
  SystemSolver solver = SystemSolver::kConjugateGradients;
  double start_decay = 0;              ///< 0: conjugate gradients start from 0
  double preconditioner_exponent = 0;  ///< 0: no preconditioner
  bool searches_back = false;          ///< along iterates and line
};

/// A step and what it does to the loss.
struct Candidate {
  at::Tensor step;
  double rate = 0;  ///< the step is this times a solution
  double new_loss = 0;
  double damped_change = 0;  ///< of the damped model
};

class DampedNewton final : public detail::ModelMinimizer {
 public:
  DampedNewton(const EmpiricalRisk& risk, DampedNewtonOptions options)
      : ModelMinimizer(risk, options.name, options.learning_rate),
        options_(std::move(options)),
        control_(options_.control) {
    CURVATURE_CHECK(options_.max_attempts > 0 && options_.cg.max_iterations > 0, OptionError,
                    "{}: expected max_attempts and max_cg_iterations of at least 1, got {} and {}",
                    name(), options_.max_attempts, options_.cg.max_iterations);
    CURVATURE_CHECK(options_.cg.relative_residual >= 0 && options_.cg.progress >= 0, OptionError,
                    "{}: tolerances must not be negative", name());
    CURVATURE_CHECK(options_.start_decay >= 0 && options_.start_decay <= 1 &&
                        options_.preconditioner_exponent >= 0,
                    OptionError,
                    "{}: expected start_decay in [0, 1] and preconditioner_exponent of at least 0, "
                    "got {} and {}",
                    name(), options_.start_decay, options_.preconditioner_exponent);
  }

  int64_t state_bytes() const override { return options_.start_decay > 0 ? vector_bytes() : 0; }

 protected:
  StepReport step_from(const EmpiricalRisk& batch, const detail::Point& point) override {
    StepReport report = standstill(point);
    if (point.gradient_norm == 0) return report;
    const Attempts attempts{.batch = batch,
                            .point = point,
                            .curvature = options_.curvature(batch),
                            .damped_diagonal = diagonal_of(batch),
                            .second_moment = second_moment(batch)};
    DampingControl control = control_;
    for (int64_t attempt = 0; attempt < options_.max_attempts; ++attempt) {
      const double damping = control.damping(point.gradient_norm);
      report.damping = damping;
      at::Tensor solution;
      const std::optional<Candidate> candidate = propose(attempts, damping, solution);
      if (!candidate) {
        control.fail();
        continue;
      }
      if (!control.judge(trial_of(attempts, *candidate, damping, control))) continue;
      detail::set_parameters(batch, point.parameters + candidate->step);
      control_ = control;
      if (options_.start_decay > 0) last_solution_ = solution;
      report.learning_rate = candidate->rate;
      report.accepted = true;
      return report;
    }
    control_ = control;
    return report;
  }

  void save_state(detail::StateWriter& writer) const override {
    writer.number("damping", control_.value());
    writer.number("failures", static_cast<double>(control_.failures()));
    writer.vector("last_solution", risk().space(), last_solution_);
  }

  void load_state(const detail::StateReader& reader) override {
    const at::Tensor last = reader.vector("last_solution", risk().space(), options());
    control_.restore(reader.number("damping"), static_cast<int64_t>(reader.number("failures")));
    last_solution_ = last;
  }

 private:
  /// What the attempts of a step share.
  struct Attempts {
    const EmpiricalRisk& batch;
    const detail::Point& point;
    OperatorPtr curvature;
    at::Tensor damped_diagonal;  ///< undefined for the identity
    at::Tensor second_moment;    ///< for the preconditioner; undefined without
  };

  at::Tensor diagonal_of(const EmpiricalRisk& batch) const {
    if (!options_.scale_by_diagonal) return {};
    const at::Tensor entries = *ggn_diagonal(batch)->diagonal();
    return entries.clamp_min(1e-6 * entries.max().item<double>());
  }

  at::Tensor second_moment(const EmpiricalRisk& batch) const {
    if (options_.preconditioner_exponent == 0) return {};
    const double scale =
        batch.options().reduction == Reduction::kMean ? 1 / batch.total_weight() : 1;
    return detail::flat(batch.space(), squared_gradient_sums(batch)) * scale +
           batch.options().weight_decay;
  }

  /// A step with this damping; none if the damped matrix is not definite.
  std::optional<Candidate> propose(const Attempts& attempts, double damping,
                                   at::Tensor& solution) const {
    const OperatorPtr system =
        attempts.damped_diagonal.defined()
            ? sum(attempts.curvature, curvature::diagonal(damping * attempts.damped_diagonal,
                                                          attempts.curvature->spec().domain))
            : shifted(attempts.curvature, damping);
    const std::optional<TruncatedCgResult> result = options_.solver == SystemSolver::kDirect
                                                        ? direct_solution(attempts, system)
                                                        : cg_solution(attempts, *system, damping);
    if (!result) return std::nullopt;
    solution = result->iterates.back();
    return options_.searches_back ? search_back(attempts, *result) : full_step(attempts, *result);
  }

  /// None if the system is not definite enough for the solution to lead downhill.
  static std::optional<TruncatedCgResult> direct_solution(const Attempts& attempts,
                                                          const OperatorPtr& system) {
    const at::Tensor& gradient = attempts.point.gradient;
    const at::Tensor d = solve(system, -gradient, direct()).x;
    const double slope = inner(gradient, d);
    if (!(slope < 0)) return std::nullopt;
    const double value = slope + inner(d, system->apply(d)) / 2;
    return TruncatedCgResult{.iterates = {d}, .values = {value}, .end = TruncatedCgEnd::kResidual};
  }

  /// None if the system is not definite.
  std::optional<TruncatedCgResult> cg_solution(const Attempts& attempts,
                                               const LinearOperator& system, double damping) const {
    TruncatedCgOptions cg = options_.cg;
    if (attempts.second_moment.defined()) {
      cg.preconditioner = curvature::diagonal(
          (attempts.second_moment + damping).pow(-options_.preconditioner_exponent),
          attempts.curvature->spec().domain);
    }
    const at::Tensor start =
        last_solution_.defined() ? options_.start_decay * last_solution_ : at::Tensor();
    TruncatedCgResult result =
        truncated_conjugate_gradient(system, -attempts.point.gradient, cg, start);
    if (result.end == TruncatedCgEnd::kNegativeCurvature) return std::nullopt;
    return result;
  }

  double loss_of(const Attempts& attempts, const at::Tensor& step) const {
    const double loss = detail::loss_at(attempts.batch, attempts.point.parameters + step);
    return std::isfinite(loss) ? loss : std::numeric_limits<double>::infinity();
  }

  /// phi(rate d) from phi(d).
  static Candidate scaled_candidate(const Attempts& attempts, const at::Tensor& d, double phi,
                                    double rate) {
    const double slope = inner(attempts.point.gradient, d);
    return {.step = rate * d,
            .rate = rate,
            .damped_change = rate * slope + rate * rate * (phi - slope)};
  }

  Candidate full_step(const Attempts& attempts, const TruncatedCgResult& result) const {
    Candidate candidate =
        scaled_candidate(attempts, result.iterates.back(), result.values.back(), learning_rate());
    candidate.new_loss = loss_of(attempts, candidate.step);
    return candidate;
  }

  /// Back over the iterates as long as the loss falls, then over shorter steps until it falls
  /// enough (Martens 2010, sections 4.5 and 4.6).
  Candidate search_back(const Attempts& attempts, const TruncatedCgResult& result) const {
    constexpr double kArmijo = 1e-2;
    constexpr double kShrink = 0.8;
    constexpr int kMaxShrinks = 60;
    size_t best = result.iterates.size() - 1;
    double rate = learning_rate();
    double loss = loss_of(attempts, rate * result.iterates[best]);
    while (best > 0) {
      const double earlier = loss_of(attempts, rate * result.iterates[best - 1]);
      if (!(earlier < loss)) break;
      loss = earlier;
      --best;
    }
    const at::Tensor& d = result.iterates[best];
    const double slope = inner(attempts.point.gradient, d);
    const double slack = loss_rounding(attempts.point.loss);
    for (int shrinks = 0; shrinks < kMaxShrinks; ++shrinks) {
      if (loss <= attempts.point.loss + kArmijo * rate * slope + slack) break;
      rate *= kShrink;
      loss = loss_of(attempts, rate * d);
    }
    Candidate candidate = scaled_candidate(attempts, d, result.values[best], rate);
    candidate.new_loss = loss;
    return candidate;
  }

  TrialStep trial_of(const Attempts& attempts, const Candidate& candidate, double damping,
                     const DampingControl& control) const {
    const at::Tensor& h = candidate.step;
    const at::Tensor damped = attempts.damped_diagonal.defined() ? h * attempts.damped_diagonal : h;
    TrialStep trial{.damping = damping,
                    .loss = attempts.point.loss,
                    .new_loss = candidate.new_loss,
                    .model_change = candidate.damped_change - damping / 2 * inner(h, damped),
                    .step_norm = norm(h),
                    .loss_rounding = loss_rounding(attempts.point.loss)};
    if (control.needs_new_gradient() && std::isfinite(candidate.new_loss)) {
      const detail::TrialParameters there(attempts.batch, attempts.point.parameters + h);
      const at::Tensor gradient = detail::flat(attempts.batch.space(), attempts.batch.gradient());
      trial.new_gradient_norm = norm(gradient);
      trial.new_gradient_slope = inner(gradient, h);
    }
    return trial;
  }

  DampedNewtonOptions options_;
  DampingControl control_;
  at::Tensor last_solution_;
};

CurvatureFunction or_ggn(const CurvatureFunction& given) {
  return given ? given : [](const EmpiricalRisk& batch) { return ggn(batch); };
}

CurvatureFunction or_hessian(const CurvatureFunction& given) {
  return given ? given : [](const EmpiricalRisk& batch) { return hessian(batch); };
}

}  // namespace

std::unique_ptr<Minimizer> hessian_free(const EmpiricalRisk& risk,
                                        const HessianFreeOptions& options) {
  return std::make_unique<DampedNewton>(
      risk, DampedNewtonOptions{.name = "hessian-free",
                                .learning_rate = options.learning_rate,
                                .curvature = or_ggn(options.curvature),
                                .control = {.rule = DampingRule::kLevenbergMarquardt,
                                            .damping = options.damping,
                                            .min_damping = options.min_damping,
                                            .max_damping = options.max_damping,
                                            .factor = options.damping_factor},
                                .cg = {.max_iterations = options.max_cg_iterations,
                                       .relative_residual = options.relative_residual,
                                       .progress = options.cg_progress,
                                       .snapshot_growth = 1.3},
                                .start_decay = options.start_decay,
                                .preconditioner_exponent = options.preconditioner_exponent,
                                .searches_back = true});
}

std::unique_ptr<Minimizer> levenberg_marquardt(const EmpiricalRisk& risk,
                                               const LevenbergMarquardtOptions& options) {
  return std::make_unique<DampedNewton>(
      risk, DampedNewtonOptions{.name = "levenberg-marquardt",
                                .learning_rate = options.learning_rate,
                                .curvature = or_ggn(options.curvature),
                                .control = {.rule = DampingRule::kNielsen,
                                            .damping = options.damping,
                                            .min_damping = options.min_damping,
                                            .max_damping = options.max_damping},
                                .cg = {.max_iterations = options.max_cg_iterations,
                                       .relative_residual = options.relative_residual},
                                .max_attempts = options.max_attempts,
                                .scale_by_diagonal = options.scale_by_diagonal,
                                .solver = options.solver});
}

std::unique_ptr<Minimizer> gradient_regularized_newton(
    const EmpiricalRisk& risk, const GradientRegularizedNewtonOptions& options) {
  const DampingControlOptions control{.rule = options.rule,
                                      .damping = options.damping,
                                      .min_damping = options.min_damping,
                                      .max_damping = options.max_damping,
                                      .exponent = options.exponent};
  CURVATURE_CHECK(DampingControl(control).needs_new_gradient(), OptionError,
                  "gradient-regularized-newton: expected a rule with the gradient's norm: "
                  "kGradientNormalized, kAdaptiveNewton or kSuperUniversal");
  return std::make_unique<DampedNewton>(
      risk, DampedNewtonOptions{.name = "gradient-regularized-newton",
                                .learning_rate = options.learning_rate,
                                .curvature = or_hessian(options.curvature),
                                .control = control,
                                .cg = {.max_iterations = options.max_cg_iterations,
                                       .relative_residual = options.relative_residual},
                                .max_attempts = options.max_attempts});
}

}  // namespace curvature::optim
