// Newton's method with cubic regularisation, in a Krylov space.

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <curvature/matrix_free/hessian.hpp>
#include <curvature/optim/cubic_model.hpp>
#include <curvature/optim/newton.hpp>
#include <curvature/spectral/lanczos.hpp>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "optim/model_minimizer.hpp"

namespace curvature::optim {
namespace {

/// The quadratic model on an orthonormal basis.
struct Projection {
  at::Tensor basis;      ///< `[k, n]`
  at::Tensor curvature;  ///< `[k, k]`, float64 on the CPU
  at::Tensor gradient;   ///< `[k]`, float64 on the CPU
};

at::Tensor tridiagonal(const LanczosResult& run) {
  const int64_t k = run.num_steps();
  at::Tensor t = at::zeros({k, k}, at::kDouble);
  auto entries = t.accessor<double, 2>();
  for (int64_t i = 0; i < k; ++i) {
    entries[i][i] = run.alphas[static_cast<size_t>(i)];
    if (i + 1 < k) entries[i][i + 1] = entries[i + 1][i] = run.betas[static_cast<size_t>(i)];
  }
  return t;
}

at::Tensor on_cpu(const at::Tensor& x) { return x.to(at::kDouble).cpu(); }

/// The Krylov space of the gradient: g is a multiple of its first vector.
Projection krylov(const LinearOperator& curvature, const detail::Point& point, int64_t size) {
  if (point.gradient_norm == 0) {
    return {at::empty({0, curvature.cols()}, point.gradient.options()),
            at::empty({0, 0}, at::kDouble), at::empty({0}, at::kDouble)};
  }
  const LanczosResult run = lanczos(curvature, point.gradient, {.num_steps = size});
  Projection projection{run.basis, tridiagonal(run), at::zeros({run.num_steps()}, at::kDouble)};
  projection.gradient[0] = run.start_norm;
  return projection;
}

/// With one more direction, unless the basis has it.
Projection extended(const Projection& old, const LinearOperator& curvature, at::Tensor direction) {
  for (int pass = 0; pass < 2; ++pass) {
    direction = direction - old.basis.t().mv(old.basis.mv(direction));
    const double length = direction.norm().item<double>();
    if (length < 1e-3) return old;  // rounding would be a large part of it
    direction = direction / length;
  }
  const at::Tensor product = curvature.apply(direction);
  const at::Tensor coupling = on_cpu(old.basis.mv(product)).unsqueeze(1);
  const at::Tensor corner = on_cpu(direction.dot(product)).reshape({1, 1});
  return {at::cat({old.basis, direction.unsqueeze(0)}),
          at::cat({at::cat({old.curvature, coupling}, 1), at::cat({coupling.t(), corner}, 1)}),
          at::cat({old.gradient, at::zeros({1}, at::kDouble)})};
}

class CubicNewton final : public detail::ModelMinimizer {
 public:
  CubicNewton(const EmpiricalRisk& risk, const CubicNewtonOptions& options)
      : ModelMinimizer(risk, "cubic-newton", options.learning_rate),
        options_(options),
        coefficient_(options.cubic_coefficient) {
    CURVATURE_CHECK(options.min_coefficient > 0 &&
                        options.cubic_coefficient >= options.min_coefficient &&
                        options.max_coefficient >= options.cubic_coefficient,
                    OptionError,
                    "cubic-newton: expected 0 < min_coefficient <= cubic_coefficient <= "
                    "max_coefficient, got {}, {} and {}",
                    options.min_coefficient, options.cubic_coefficient, options.max_coefficient);
    CURVATURE_CHECK(
        options.subspace_size > 0 && options.probe_steps >= 0 && options.max_attempts > 0,
        OptionError,
        "cubic-newton: expected subspace_size and max_attempts of at least 1 and "
        "probe_steps of at least 0, got {}, {} and {}",
        options.subspace_size, options.max_attempts, options.probe_steps);
    if (!options_.curvature) {
      options_.curvature = [](const EmpiricalRisk& batch) { return hessian(batch); };
    }
  }

  int64_t state_bytes() const override { return 0; }

 protected:
  StepReport step_from(const EmpiricalRisk& batch, const detail::Point& point) override {
    const Projection projection = project(batch, point);
    double coefficient = coefficient_;
    StepReport report = standstill(point);
    for (int64_t attempt = 0; attempt < options_.max_attempts; ++attempt) {
      if (projection.gradient.size(0) == 0) break;
      const CubicMinimum best =
          minimize_cubic(projection.curvature, projection.gradient, coefficient);
      if (best.value >= 0) break;  // nowhere to go
      const at::Tensor y = learning_rate() * best.step;
      const at::Tensor values =
          point.parameters + projection.basis.t().mv(y.to(point.parameters.options()));
      const double new_loss = detail::loss_at(batch, values);
      const bool holds = new_loss <= point.loss + model_change(projection, y, coefficient) +
                                         loss_rounding(point.loss);
      coefficient = std::clamp(holds ? coefficient / 2 : coefficient * 2, options_.min_coefficient,
                               options_.max_coefficient);
      if (!holds) continue;
      detail::set_parameters(batch, values);
      report.learning_rate = learning_rate();
      report.accepted = true;
      break;
    }
    coefficient_ = coefficient;
    ++steps_;
    return report;
  }

  void save_state(detail::StateWriter& writer) const override {
    writer.number("coefficient", coefficient_);
    writer.number("steps", static_cast<double>(steps_));
  }

  void load_state(const detail::StateReader& reader) override {
    const double coefficient = reader.number("coefficient"), steps = reader.number("steps");
    CURVATURE_CHECK(coefficient > 0 && std::isfinite(coefficient) && steps >= 0, DataError,
                    "cubic-newton: cannot go on from coefficient {} and step {}", coefficient,
                    steps);
    coefficient_ = coefficient;
    steps_ = static_cast<int64_t>(steps);
  }

 private:
  Projection project(const EmpiricalRisk& batch, const detail::Point& point) const {
    const OperatorPtr curvature = options_.curvature(batch);
    const Projection space = krylov(*curvature, point, options_.subspace_size);
    if (options_.probe_steps == 0 || space.basis.size(0) == curvature->cols()) return space;
    // In the range of the curvature, so that parameters without any stay where they are.
    const at::Tensor random =
        draw_probes(options_.random, Probe::kGaussian, curvature->cols(), steps_, 1, options());
    const at::Tensor probe = curvature->apply(random.squeeze(1)).contiguous();
    if (curvature::detail::norm(probe) == 0) return space;
    const LanczosResult run = lanczos(*curvature, probe, {.num_steps = options_.probe_steps});
    const RitzPairs ritz = ritz_pairs(run);
    return extended(space, *curvature, ritz_vectors(run, ritz, 0, 1).squeeze(1));
  }

  static double model_change(const Projection& model, const at::Tensor& y, double coefficient) {
    const double length = y.norm().item<double>();
    return (model.gradient.dot(y) + 0.5 * y.dot(model.curvature.mv(y))).item<double>() +
           coefficient / 6 * length * length * length;
  }

  CubicNewtonOptions options_;
  double coefficient_;
  int64_t steps_ = 0;
};

}  // namespace

std::unique_ptr<Minimizer> cubic_newton(const EmpiricalRisk& risk,
                                        const CubicNewtonOptions& options) {
  return std::make_unique<CubicNewton>(risk, options);
}

}  // namespace curvature::optim
