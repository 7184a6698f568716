#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>

#include "core/check.hpp"
#include "optim/psgd_preconditioner.hpp"

namespace curvature::optim {
namespace {

class PsgdEstimator : public CovarianceEstimator {
 public:
  PsgdEstimator(const ParameterView& view, const PsgdUse& use)
      : view_(view), use_(use), preconditioner_(use.make(view)) {}

  at::Tensor step(const at::Tensor& gradient, Momentum& momentum) override {
    const at::Tensor g = gradient.view(preconditioner_->shape());
    if (t_ == 0) {
      const auto scale = psgd_scale(g);
      if (!scale) return {};
      preconditioner_->start(*scale);
    }
    if (t_ % use_.refresh_interval == 0) {
      const RandomSource random =
          RandomSource(use_.seed).derive(static_cast<uint64_t>(view_.index));
      preconditioner_->move(with_noise(g, use_.noise, random, t_), {},
                            t_ / use_.refresh_interval + 1);
    }
    t_ += 1;
    const ScaledTensor& filtered = momentum(gradient);
    at::Tensor u = preconditioner_->apply(filtered.tensor.view(preconditioner_->shape()));
    if (filtered.factor != 1) u.mul_(filtered.factor);
    return u.view(gradient.sizes());
  }

  OperatorPtr snapshot() const override {
    CURVATURE_CHECK(t_ > 0, NotSupportedError, "snapshot: '{}' has seen no gradient yet",
                    view_.name);
    return preconditioner_->covariance();
  }

  void visit(StateVisitor& visitor) override {
    preconditioner_->visit(visitor);
    visitor.count("steps", t_);
  }

  int64_t state_bytes() const override { return preconditioner_->state_bytes(); }

 private:
  ParameterView view_;
  PsgdUse use_;
  std::unique_ptr<PsgdPreconditioner> preconditioner_;
  int64_t t_ = 0;
};

}  // namespace

ParameterView flattened(const ParameterView& view) {
  ParameterView flat = view;
  flat.shape = {view.size()};
  flat.modes = {ModeKind::kDense};
  return flat;
}

std::optional<double> psgd_scale(const at::Tensor& h) {
  // Fourth powers of small numbers would vanish in float32.
  const double largest = h.abs().max().item<double>();
  if (largest == 0) return std::nullopt;
  const double mean = (h / largest).pow(4).mean(at::kDouble).item<double>();
  return std::pow(mean, -0.125) / std::sqrt(largest);
}

at::Tensor with_noise(const at::Tensor& h, double noise, const RandomSource& random,
                      int64_t stream) {
  if (noise == 0) return h;
  const at::ScalarType dtype = h.scalar_type();
  const double rounding = dtype == at::kDouble ? 2.2e-16 : dtype == at::kBFloat16 ? 7.8e-3 : 1.2e-7;
  const at::Tensor z = random.normal(static_cast<uint64_t>(stream), h.numel());
  return h.abs().mul_(rounding).add_(noise).mul_(z.to(h.options()).view_as(h)).add_(h);
}

double running_bound(double last, double bound, double decay) {
  return std::max(decay * last + (1 - decay) * bound, bound);
}

void check_psgd(const char* who, double preconditioner_rate, double lipschitz_decay, double noise,
                int64_t refresh_interval) {
  CURVATURE_CHECK(
      preconditioner_rate > 0 && preconditioner_rate < 1 && lipschitz_decay >= 0 &&
          lipschitz_decay < 1,
      OptionError,
      "{}: expected preconditioner_rate in (0, 1) and lipschitz_decay in [0, 1), got {} "
      "and {}",
      who, preconditioner_rate, lipschitz_decay);
  CURVATURE_CHECK(noise >= 0 && refresh_interval >= 1, OptionError,
                  "{}: expected noise >= 0 and refresh_interval >= 1, got {} and {}", who, noise,
                  refresh_interval);
}

EstimatorFactory psgd_estimator(const PsgdUse& use) {
  return [use](const ParameterView& view) { return std::make_unique<PsgdEstimator>(view, use); };
}

}  // namespace curvature::optim
