#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/pow.h>

#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/eigen_decomposed.hpp>
#include <curvature/optim/spectral_factorized_estimator.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "optim/axis_order.hpp"
#include "optim/cayley.hpp"
#include "optim/mode_algebra.hpp"
#include "optim/mode_operator.hpp"

namespace curvature::optim {
namespace {

bool is_low_precision(const at::Tensor& x) {
  return x.scalar_type() != at::kDouble && x.scalar_type() != at::kFloat;
}

/// One axis: its basis (undefined: the identity) and eigenvalues (undefined: it has no factor).
struct Factor {
  at::Tensor basis, eigenvalues;
};

class SpectralFactorizedEstimator : public CovarianceEstimator {
 public:
  SpectralFactorizedEstimator(const ParameterView& view, const SpectralFactorizedOptions& options)
      : view_(view), options_(options), factors_(view.shape.size()) {}

  at::Tensor step(const at::Tensor& gradient, Momentum& momentum) override {
    if (t_ == 0) {
      if (!start(gradient)) return {};
    } else if (t_ % options_.refresh_interval == 0) {
      update_factors(gradient);
    }
    t_ += 1;
    const ScaledTensor& filtered = momentum(gradient);
    at::Tensor root = at::pow(values(), 1 / options_.root).add_(options_.epsilon);
    at::Tensor u = rotated(filtered.tensor, true).mul(root.reciprocal_().mul_(filtered.factor));
    return rotated(u, false);
  }

  OperatorPtr snapshot() const override {
    CURVATURE_CHECK(t_ > 0, NotSupportedError, "snapshot: '{}' has seen no gradient yet",
                    view_.name);
    const auto dtype = view_.options.dtype() == at::kDouble ? at::kDouble : at::kFloat;
    std::vector<at::Tensor> matrices;
    double scale = scale_;
    for (size_t i = 0; i < factors_.size(); ++i) {
      const Factor& factor = factors_[i];
      at::Tensor e = factor.eigenvalues.defined()
                         ? factor.eigenvalues.to(dtype) * scale
                         : at::full(view_.shape[i], scale, view_.options.dtype(dtype));
      scale = 1;
      const at::Tensor q = factor.basis.defined() ? factor.basis.to(dtype) : at::Tensor();
      matrices.push_back(q.defined() ? mode_gram(q * e.sqrt(), 0) : e);
    }
    return mode_operator(in_parameter_order(view_, matrices));
  }

  void visit(StateVisitor& visitor) override {
    for (size_t i = 0; i < factors_.size(); ++i) {
      visitor.tensor(fmt::format("basis_{}", i), factors_[i].basis);
      visitor.tensor(fmt::format("eigenvalues_{}", i), factors_[i].eigenvalues);
    }
    visitor.number("scale", scale_);
    visitor.count("updates", updates_);
    visitor.count("steps", t_);
  }

  int64_t state_bytes() const override {
    int64_t entries = 0;
    for (size_t i = 0; i < factors_.size(); ++i) {
      const int64_t d = view_.shape[i];
      if (view_.modes[i] == ModeKind::kDense) entries += d * d + d;
      if (view_.modes[i] == ModeKind::kDiagonal) entries += d;
    }
    return entries * static_cast<int64_t>(view_.options.dtype().itemsize());
  }

 private:
  /// Sets the scale; false for a zero gradient.
  bool start(const at::Tensor& gradient) {
    // Squares of small numbers would vanish in low precision.
    const double largest = gradient.abs().max().item<double>();
    if (largest == 0) return false;
    scale_ = (gradient / largest).square().mean(at::kDouble).item<double>() * largest * largest;
    for (size_t i = 0; i < factors_.size(); ++i) {
      const int64_t d = view_.shape[i];
      if (view_.modes[i] == ModeKind::kIdentity) continue;
      factors_[i].eigenvalues = at::ones(d, gradient.options());
      if (view_.modes[i] == ModeKind::kDense) factors_[i].basis = at::eye(d, gradient.options());
    }
    return true;
  }

  /// a prod_i e_i as a tensor of the parameter's shape, fresh.
  at::Tensor values() const {
    at::Tensor result = at::full(view_.shape, scale_, view_.options);
    for (size_t i = 0; i < factors_.size(); ++i) {
      if (factors_[i].eigenvalues.defined()) scale_mode(result, factors_[i].eigenvalues, i);
    }
    return result;
  }

  at::Tensor rotated(at::Tensor x, bool into) const {
    for (size_t i = 0; i < factors_.size(); ++i) {
      const at::Tensor& q = factors_[i].basis;
      if (q.defined()) x = mode_product(x, into ? q.t() : q, i);
    }
    return x;
  }

  /// All statistics are those of the old S; nothing changes if something is not finite.
  void update_factors(const at::Tensor& gradient) {
    const double rate = 1 - options_.beta2;
    // Whitened along all axes; T_i lacks e_i's division, which it gets back.
    const at::Tensor white = rotated(gradient, true).mul(values().rsqrt_());
    const double mean = white.square().mean(at::kDouble).item<double>();
    CURVATURE_CHECK(std::isfinite(mean), NumericalError,
                    "spectral_factorized_estimator: the whitened gradient of '{}' is too large for "
                    "its dtype",
                    view_.name);
    updates_ += 1;
    for (size_t i = 0; i < factors_.size(); ++i) {
      if (factors_[i].eigenvalues.defined()) update_factor(i, white, rate);
    }
    scale_ *=
        std::exp(std::clamp(rate * (mean - 1), -options_.max_log_change, options_.max_log_change));
  }

  void update_factor(size_t i, const at::Tensor& white, double rate) {
    Factor& factor = factors_[i];
    const at::Tensor old = factor.eigenvalues;
    const double others = static_cast<double>(view_.size()) / static_cast<double>(view_.shape[i]);
    at::Tensor gram;
    if (factor.basis.defined()) gram = mode_gram(white, i).div_(others);
    at::Tensor change =
        gram.defined() ? gram.diagonal().clone() : sum_other_modes(white * white, i).div_(others);
    change.sub_(change.mean()).mul_(rate);
    const double largest = change.abs().max().item<double>();
    if (largest > options_.max_log_change) change.mul_(options_.max_log_change / largest);
    factor.eigenvalues = old * change.exp_();
    if (!gram.defined()) return;

    const at::Tensor root = old.sqrt();
    gram.mul_(root.unsqueeze(0)).mul_(root.unsqueeze(1));
    factor.basis = turned(factor.basis,
                          rotation(gram, old, rate, options_.gap_tolerance, options_.max_rotation));
    const int64_t interval = options_.orthogonalize_interval;
    if (is_low_precision(old) || (interval > 0 && updates_ % interval == 0)) {
      factor.basis = orthogonalized(factor.basis);
    }
  }

  ParameterView view_;
  SpectralFactorizedOptions options_;
  std::vector<Factor> factors_;
  double scale_ = 0;
  int64_t updates_ = 0, t_ = 0;
};

}  // namespace

EstimatorFactory spectral_factorized_estimator(const SpectralFactorizedOptions& options) {
  CURVATURE_CHECK(
      options.beta2 >= 0 && options.beta2 < 1 && options.root > 0 && options.epsilon >= 0,
      OptionError,
      "spectral_factorized_estimator: expected beta2 in [0, 1), root > 0 and "
      "epsilon >= 0, got {}, {} and {}",
      options.beta2, options.root, options.epsilon);
  CURVATURE_CHECK(options.gap_tolerance >= 0 && options.max_rotation > 0 &&
                      options.max_log_change > 0 && options.refresh_interval >= 1 &&
                      options.orthogonalize_interval >= 0,
                  OptionError,
                  "spectral_factorized_estimator: expected gap_tolerance and "
                  "orthogonalize_interval >= 0, max_rotation and max_log_change > 0 and "
                  "refresh_interval >= 1, got {}, {}, {}, {} and {}",
                  options.gap_tolerance, options.orthogonalize_interval, options.max_rotation,
                  options.max_log_change, options.refresh_interval);
  return with_long_axes_last([options](const ParameterView& view) {
    return std::make_unique<SpectralFactorizedEstimator>(view, options);
  });
}

SpectralMatrix SpectralMatrix::identity(int64_t n, double scale, const at::TensorOptions& options) {
  CURVATURE_CHECK(scale > 0, OptionError, "SpectralMatrix: expected a positive scale, got {}",
                  scale);
  return {at::eye(n, options), at::full(n, scale, options)};
}

SpectralMatrix SpectralMatrix::of(const at::Tensor& s) {
  CURVATURE_CHECK(s.dim() == 2 && s.size(0) == s.size(1), ShapeError,
                  "SpectralMatrix: expected a square matrix, got {}",
                  curvature::detail::to_string(s.sizes()));
  auto [values, vectors] = at::linalg_eigh(s);
  CURVATURE_CHECK(values.gt(0).all().item<bool>(), NumericalError,
                  "SpectralMatrix: the matrix is not positive definite");
  return {vectors, values};
}

OperatorPtr SpectralMatrix::as_operator() const {
  const auto dtype = basis.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return eigen_decomposed(basis.to(dtype), eigenvalues.to(dtype));
}

at::Tensor SpectralMatrix::power(double exponent, const at::Tensor& x) const {
  const at::Tensor scales = at::pow(eigenvalues, exponent);
  const at::Tensor inner = at::matmul(basis.t(), x);
  return at::matmul(basis, x.dim() == 1 ? inner * scales : inner * scales.unsqueeze(1));
}

void update(SpectralMatrix& s, const at::Tensor& h, const SpectralUpdateOptions& options) {
  CURVATURE_CHECK(
      h.sizes() == s.basis.sizes(), ShapeError, "update: expected a sample of shape {}, got {}",
      curvature::detail::to_string(s.basis.sizes()), curvature::detail::to_string(h.sizes()));
  CURVATURE_CHECK(options.rate > 0 && options.max_rotation > 0 && options.max_log_change > 0,
                  OptionError,
                  "update: expected positive rate, max_rotation and max_log_change, got {}, {} and "
                  "{}",
                  options.rate, options.max_rotation, options.max_log_change);
  const at::Tensor inner = s.basis.t().matmul(h).matmul(s.basis);
  CURVATURE_CHECK(curvature::detail::is_finite(inner), NumericalError,
                  "update: the sample contains NaN or infinity, or is too large");
  at::Tensor change = inner.diagonal().div(s.eigenvalues).sub_(options.forgetting);
  change.mul_(options.rate).clamp_(-options.max_log_change, options.max_log_change);
  const at::Tensor n =
      rotation(inner, s.eigenvalues, options.rate, options.gap_tolerance, options.max_rotation);
  s.basis = turned(s.basis, n);
  if (is_low_precision(n)) s.basis = orthogonalized(s.basis);
  s.eigenvalues = s.eigenvalues * change.exp_();
}

}  // namespace curvature::optim
