// Newton's method in a trust region, by truncated conjugate gradients.

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>

#include <curvature/matrix_free/hessian.hpp>
#include <curvature/optim/newton.hpp>
#include <curvature/solvers/truncated_conjugate_gradient.hpp>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "optim/model_minimizer.hpp"

namespace curvature::optim {
namespace {

class NewtonCg final : public detail::ModelMinimizer {
 public:
  NewtonCg(const EmpiricalRisk& risk, const NewtonCgOptions& options)
      : ModelMinimizer(risk, "newton-cg", options.learning_rate),
        options_(options),
        radius_(options.radius) {
    CURVATURE_CHECK(options.radius > 0 && options.max_radius >= options.radius, OptionError,
                    "newton-cg: expected 0 < radius <= max_radius, got {} and {}", options.radius,
                    options.max_radius);
    CURVATURE_CHECK(options.max_attempts > 0 && options.max_cg_iterations > 0, OptionError,
                    "newton-cg: expected max_attempts and max_cg_iterations of at least 1, got {} "
                    "and {}",
                    options.max_attempts, options.max_cg_iterations);
    CURVATURE_CHECK(options.forcing >= 0 && options.acceptance >= 0 && options.acceptance < 0.25,
                    OptionError,
                    "newton-cg: expected forcing of at least 0 and acceptance in [0, 1/4), got {} "
                    "and {}",
                    options.forcing, options.acceptance);
    if (!options_.curvature) {
      options_.curvature = [](const EmpiricalRisk& batch) { return hessian(batch); };
    }
  }

  int64_t state_bytes() const override { return 0; }

 protected:
  StepReport step_from(const EmpiricalRisk& batch, const detail::Point& point) override {
    StepReport report = standstill(point);
    if (point.gradient_norm == 0) return report;
    const OperatorPtr curvature = options_.curvature(batch);
    const double forcing = std::min(options_.forcing, std::sqrt(point.gradient_norm));
    double radius = radius_;
    for (int64_t attempt = 0; attempt < options_.max_attempts; ++attempt) {
      const TruncatedCgResult result =
          truncated_conjugate_gradient(*curvature, -point.gradient,
                                       {.max_iterations = options_.max_cg_iterations,
                                        .relative_residual = forcing,
                                        .radius = radius});
      const at::Tensor step = learning_rate() * result.iterates.back();
      const double ratio = reduction_ratio(batch, point, result, step);
      const bool at_boundary = result.end == TruncatedCgEnd::kBoundary ||
                               result.end == TruncatedCgEnd::kNegativeCurvature;
      if (ratio < 0.25) {
        radius = curvature::detail::norm(result.iterates.back()) / 4;
      } else if (ratio > 0.75 && at_boundary) {
        radius = std::min(2 * radius, options_.max_radius);
      }
      if (!(ratio > options_.acceptance)) continue;
      detail::set_parameters(batch, point.parameters + step);
      radius_ = radius;
      report.learning_rate = learning_rate();
      report.accepted = true;
      return report;
    }
    radius_ = radius;
    return report;
  }

  void save_state(detail::StateWriter& writer) const override { writer.number("radius", radius_); }

  void load_state(const detail::StateReader& reader) override {
    const double radius = reader.number("radius");
    CURVATURE_CHECK(radius > 0 && std::isfinite(radius), DataError,
                    "newton-cg: the saved radius is {}; expected a positive number", radius);
    radius_ = radius;
  }

 private:
  /// Change of the loss over change of the model; -1 where the loss is not finite.
  double reduction_ratio(const EmpiricalRisk& batch, const detail::Point& point,
                         const TruncatedCgResult& result, const at::Tensor& step) const {
    const double rate = learning_rate();
    const double slope = curvature::detail::inner(point.gradient, result.iterates.back());
    const double model = rate * slope + rate * rate * (result.values.back() - slope);
    const double change = detail::loss_at(batch, point.parameters + step) - point.loss;
    const double rounding = loss_rounding(point.loss);
    if (std::abs(change) <= rounding && -model <= rounding) return 1;
    return std::isfinite(change) && model < 0 ? change / model : -1;
  }

  NewtonCgOptions options_;
  double radius_;
};

}  // namespace

std::unique_ptr<Minimizer> newton_cg(const EmpiricalRisk& risk, const NewtonCgOptions& options) {
  return std::make_unique<NewtonCg>(risk, options);
}

}  // namespace curvature::optim
