#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/sqrt.h>

#include <curvature/operators/diagonal.hpp>
#include <curvature/optim/diagonal_estimator.hpp>

#include "core/check.hpp"
#include "optim/mode_operator.hpp"

namespace curvature::optim {
namespace {

class AdamEstimator : public CovarianceEstimator {
 public:
  AdamEstimator(const ParameterView& view, const AdamEstimatorOptions& options)
      : view_(view), options_(options) {}

  at::Tensor step(const at::Tensor& gradient, Momentum& momentum) override {
    if (!second_moment_.defined()) {
      second_moment_ = at::full_like(gradient, options_.initial_value);
    }
    second_moment_.mul_(options_.beta2).addcmul_(gradient, gradient, 1 - options_.beta2);
    t_ += 1;
    const ScaledTensor& filtered = momentum(gradient);
    const double p = options_.exponent;
    at::Tensor root = p == 0.5 ? at::sqrt(second_moment_) : at::pow(second_moment_, p);
    root.div_(std::pow(correction(), p)).add_(options_.epsilon);
    return root.reciprocal_().mul_(filtered.tensor).mul_(filtered.factor);
  }

  OperatorPtr snapshot() const override {
    CURVATURE_CHECK(second_moment_.defined(), NotSupportedError,
                    "snapshot: '{}' has seen no gradient yet", view_.name);
    return curvature::diagonal(at_least_single(second_moment_ / correction()).flatten());
  }

  std::optional<AdamState> adam() override {
    if (options_.exponent != 0.5 || !options_.bias_correction || options_.batch_size != 1) {
      return std::nullopt;
    }
    return AdamState{&second_moment_, &t_, options_.beta2, options_.epsilon};
  }

  void visit(StateVisitor& visitor) override {
    visitor.tensor("second_moment", second_moment_);
    visitor.count("steps", t_);
  }

  int64_t state_bytes() const override {
    return view_.size() * static_cast<int64_t>(view_.options.dtype().itemsize());
  }

 private:
  /// What V is divided by.
  double correction() const {
    const double weight =
        options_.bias_correction ? 1 - std::pow(options_.beta2, static_cast<double>(t_)) : 1;
    return weight / static_cast<double>(options_.batch_size);
  }

  ParameterView view_;
  AdamEstimatorOptions options_;
  at::Tensor second_moment_;
  int64_t t_ = 0;
};

class IdentityEstimator : public CovarianceEstimator {
 public:
  explicit IdentityEstimator(const ParameterView& view) : view_(view) {}

  at::Tensor step(const at::Tensor& gradient, Momentum& momentum) override {
    const ScaledTensor& filtered = momentum(gradient);
    return filtered.tensor * filtered.factor;
  }
  OperatorPtr snapshot() const override {
    return curvature::diagonal(at_least_single(at::ones({view_.size()}, view_.options)));
  }
  void visit(StateVisitor&) override {}
  int64_t state_bytes() const override { return 0; }

 private:
  ParameterView view_;
};

}  // namespace

EstimatorFactory adam_estimator(const AdamEstimatorOptions& options) {
  CURVATURE_CHECK(options.beta2 >= 0 && options.beta2 < 1 && options.epsilon >= 0, OptionError,
                  "adam_estimator: expected beta2 in [0, 1) and epsilon >= 0, got {} and {}",
                  options.beta2, options.epsilon);
  CURVATURE_CHECK(options.batch_size >= 1 && options.exponent >= 0, OptionError,
                  "adam_estimator: expected batch_size >= 1 and exponent >= 0, got {} and {}",
                  options.batch_size, options.exponent);
  CURVATURE_CHECK(
      options.initial_value == 0 || (options.initial_value > 0 && !options.bias_correction),
      OptionError,
      "adam_estimator: expected initial_value 0, or above 0 without bias correction, "
      "got {}",
      options.initial_value);
  return [options](const ParameterView& view) {
    return std::make_unique<AdamEstimator>(view, options);
  };
}

AdamEstimatorOptions root_free_adam_options(int64_t batch_size) {
  CURVATURE_CHECK(batch_size >= 1, OptionError,
                  "root_free_adam_options: expected batch_size >= 1, got {}", batch_size);
  return {.beta2 = 0.99,
          .epsilon = 1e-5,
          .exponent = 1,
          .bias_correction = false,
          .initial_value = 1 / static_cast<double>(batch_size),
          .batch_size = batch_size};
}

EstimatorFactory identity_estimator() {
  return [](const ParameterView& view) { return std::make_unique<IdentityEstimator>(view); };
}

}  // namespace curvature::optim
