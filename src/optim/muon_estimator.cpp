#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/sign.h>

#include <curvature/optim/muon_estimator.hpp>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "core/matrix_product.hpp"
#include "optim/mode_algebra.hpp"

namespace curvature::optim {
namespace {

using Coefficients = std::array<double, 3>;

/// One for each step; the last one goes on.
const std::vector<Coefficients>& coefficients(PolarMethod method) {
  static const std::vector<Coefficients> muon = {{3.4445, -4.7750, 2.0315}};
  static const std::vector<Coefficients> cubic = {{1.5, -0.5, 0}};
  static const std::vector<Coefficients> quintic = {{4.0848, -6.8946, 2.9270},
                                                    {3.9505, -6.3029, 2.6377},
                                                    {3.7418, -5.5913, 2.3037},
                                                    {2.8769, -3.1427, 1.2046},
                                                    {2.8366, -3.0525, 1.2012}};
  static const std::vector<Coefficients> polar_express = {
      {8.2051, -22.9019, 16.4607}, {4.0664, -2.8612, 0.5184}, {3.9096, -2.8234, 0.5250},
      {3.2856, -2.4153, 0.4853},   {2.2779, -1.6198, 0.3985}, {1.8726, -1.2307, 0.3585},
      {1.8564, -1.2132, 0.3568},   {1.875, -1.25, 0.375}};
  switch (method) {
    case PolarMethod::kCubic:
      return cubic;
    case PolarMethod::kQuintic:
      return quintic;
    case PolarMethod::kPolarExpress:
      return polar_express;
    default:
      return muon;
  }
}

using curvature::detail::quick_norm;

/// Singular vectors of singular values that are 0 but for rounding are left out.
at::Tensor exact_polar_factor(const at::Tensor& x) {
  const auto [u, s, vt] = at::linalg_svd(x, /*full_matrices=*/false);
  const double rounding = x.scalar_type() == at::kDouble ? 2.2e-16 : 1.2e-7;
  const at::Tensor kept =
      s.gt(s.max() * rounding * static_cast<double>(std::max(x.size(0), x.size(1))));
  return (u * kept).mm(vt);
}

/// X <- a X + (b X X^T + c (X X^T)^2) X for the Gram matrix of the axis `shorter`, of which half is
/// computed.
at::Tensor newton_schulz_step(const at::Tensor& x, const Coefficients& set, size_t shorter) {
  const auto [a, b, c] = set;
  const at::Tensor gram = mode_gram(x, shorter);
  at::Tensor polynomial = c == 0 ? gram * b : mode_gram(gram, 0).mul_(c).add_(gram, b);
  polynomial.diagonal().add_(a);
  return mode_product(x, polynomial, shorter);
}

/// The same below float32, where sums must not be rounded before they are complete.
at::Tensor rounded_newton_schulz_step(const at::Tensor& x, const Coefficients& set,
                                      size_t shorter) {
  const auto [a, b, c] = set;
  if (shorter == 1) return rounded_newton_schulz_step(x.t(), set, 0).t();
  const at::Tensor gram = x.mm(x.t());
  return at::addmm(x, at::addmm(gram, gram, gram, b, c), x, a);
}

at::Tensor newton_schulz(const at::Tensor& x, PolarMethod method, int64_t steps) {
  constexpr double kTiny = 1e-7;
  const size_t shorter = x.size(0) > x.size(1) ? 1 : 0;
  at::Tensor y = x / (quick_norm(x) + kTiny);
  const auto& sets = coefficients(method);
  const auto take_step = x.element_size() < 4 ? rounded_newton_schulz_step : newton_schulz_step;
  for (int64_t step = 0; step < steps; ++step) {
    const Coefficients& set = sets[std::min(static_cast<size_t>(step), sets.size() - 1)];
    y = take_step(y, set, shorter);
  }
  return y;
}

class MuonEstimator : public CovarianceEstimator {
 public:
  MuonEstimator(const ParameterView& view, const MuonOptions& options)
      : view_(view), options_(options) {
    CURVATURE_CHECK(options.norm != DescentNorm::kSpectral || view.shape.size() == 2, OptionError,
                    "muon_estimator: the spectral norm is one of matrices; expected two axes of "
                    "'{}', got {}; view it as a matrix, or route it to another estimator",
                    view.name, view.shape.size());
  }

  at::Tensor step(const at::Tensor& gradient, Momentum& momentum) override {
    const ScaledTensor& filtered = momentum(gradient);
    at::Tensor m = filtered.tensor;
    if (filtered.factor != 1) m = m * filtered.factor;
    const at::Tensor u = unit_direction(m);
    return u * scale(m, u);
  }

  OperatorPtr snapshot() const override {
    CURVATURE_CHECK(false, NotSupportedError,
                    "snapshot: '{}' has steepest descent, which stands for no matrix", view_.name);
  }
  void visit(StateVisitor&) override {}
  int64_t state_bytes() const override { return 0; }

 private:
  at::Tensor unit_direction(const at::Tensor& m) const {
    switch (options_.norm) {
      case DescentNorm::kMax:
        return at::sign(m);
      case DescentNorm::kFrobenius:
        return m / std::max(quick_norm(m), 1e-300);
      default:
        return polar_factor(m.to(options_.products.value_or(m.scalar_type())), options_.method,
                            options_.steps)
            .to(m.scalar_type());
    }
  }

  double scale(const at::Tensor& m, const at::Tensor& u) const {
    const auto rows = static_cast<double>(view_.shape.empty() ? 1 : view_.shape.front());
    const double columns = static_cast<double>(view_.size()) / rows;
    switch (options_.scale) {
      case DescentScale::kRowsOverColumns:
        return std::sqrt(std::max(1.0, rows / columns));
      case DescentScale::kAdamRms:
        return 0.2 * std::sqrt(std::max(rows, columns));
      case DescentScale::kSpectralRatio:
        return std::sqrt(rows / columns);
      case DescentScale::kDualNorm:
        return (m * u).sum(at::kDouble).item<double>();
      default:
        return 1;
    }
  }

  ParameterView view_;
  MuonOptions options_;
};

}  // namespace

at::Tensor polar_factor(const at::Tensor& x, PolarMethod method, int64_t steps) {
  CURVATURE_CHECK(x.dim() == 2 && x.is_floating_point(), ShapeError,
                  "polar_factor: expected a matrix of floating-point numbers, got {} axes",
                  x.dim());
  CURVATURE_CHECK(steps >= 1, OptionError, "polar_factor: expected at least one step, got {}",
                  steps);
  return method == PolarMethod::kExact ? exact_polar_factor(x) : newton_schulz(x, method, steps);
}

EstimatorFactory muon_estimator(const MuonOptions& options) {
  CURVATURE_CHECK(options.steps >= 1, OptionError,
                  "muon_estimator: expected at least one step, got {}", options.steps);
  const at::ScalarType products = options.products.value_or(at::kFloat);
  CURVATURE_CHECK(
      at::isFloatingType(products) && (options.method != PolarMethod::kExact ||
                                       products == at::kFloat || products == at::kDouble),
      OptionError, "muon_estimator: no polar factors by that method in {}",
      c10::toString(products));
  return [options](const ParameterView& view) {
    return std::make_unique<MuonEstimator>(view, options);
  };
}

}  // namespace curvature::optim
