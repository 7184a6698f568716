#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <curvature/optim/damping_control.hpp>

#include "core/check.hpp"

namespace curvature::optim {
namespace {

/// Change of the loss over change of the model; minus infinity where either is senseless.
double reduction_ratio(const TrialStep& step) {
  const double change = step.new_loss - step.loss;
  if (std::abs(change) <= step.loss_rounding && step.model_change >= -step.loss_rounding) return 1;
  if (!std::isfinite(change) || !(step.model_change < 0)) {
    return -std::numeric_limits<double>::infinity();
  }
  return change / step.model_change;
}

}  // namespace

DampingControl::DampingControl(DampingControlOptions options)
    : options_(options), value_(options.damping) {
  const auto usable = [](double value) { return value >= 0 && std::isfinite(value); };
  CURVATURE_CHECK(usable(options.damping), OptionError,
                  "DampingControl: damping must be finite and not negative; got {}",
                  options.damping);
  CURVATURE_CHECK(options.min_damping > 0 && options.max_damping >= options.min_damping,
                  OptionError,
                  "DampingControl: expected 0 < min_damping <= max_damping, got {} and {}",
                  options.min_damping, options.max_damping);
  CURVATURE_CHECK(!adapts() || options.damping > 0, OptionError,
                  "DampingControl: a rule that adapts damping needs a positive one; got {}",
                  options.damping);
  CURVATURE_CHECK(options.factor > 1 && std::isfinite(options.factor), OptionError,
                  "DampingControl: factor must be larger than 1; got {}", options.factor);
  CURVATURE_CHECK(options.exponent >= 2.0 / 3 && options.exponent <= 1, OptionError,
                  "DampingControl: exponent must be in [2/3, 1]; got {}", options.exponent);
}

double DampingControl::damping(double gradient_norm) const {
  switch (options_.rule) {
    case DampingRule::kConstant:
    case DampingRule::kLevenbergMarquardt:
    case DampingRule::kNielsen:
      return value_;
    case DampingRule::kGradientNormalized:
      return value_ * gradient_norm;  // the value is 1 / gamma
    case DampingRule::kAdaptiveNewton:
      return std::sqrt(value_ * gradient_norm);
    case DampingRule::kSuperUniversal:
      return value_ * std::pow(gradient_norm, options_.exponent);
  }
  return value_;
}

bool DampingControl::needs_new_gradient() const {
  return options_.rule == DampingRule::kGradientNormalized ||
         options_.rule == DampingRule::kAdaptiveNewton ||
         options_.rule == DampingRule::kSuperUniversal;
}

bool DampingControl::is_success(const TrialStep& step) const {
  const double decrease = step.loss - step.new_loss + step.loss_rounding;
  if (!(decrease >= 0)) return false;  // NaN as well
  const double new_norm = step.new_gradient_norm;
  switch (options_.rule) {
    case DampingRule::kConstant:
    case DampingRule::kLevenbergMarquardt:
    case DampingRule::kNielsen:
      return true;
    case DampingRule::kGradientNormalized:
      return decrease >= new_norm * new_norm / (8 * step.damping);
    case DampingRule::kAdaptiveNewton:
      return new_norm <= 2 * step.damping * step.step_norm &&
             decrease >= 2.0 / 3 * step.damping * step.step_norm * step.step_norm;
    case DampingRule::kSuperUniversal:
      return -step.new_gradient_slope >= new_norm * new_norm / (4 * step.damping);
  }
  return true;
}

bool DampingControl::judge(const TrialStep& step) {
  if (!is_success(step)) {
    fail();
    return false;
  }
  adapt(step);
  failures_ = 0;
  return true;
}

void DampingControl::adapt(const TrialStep& step) {
  const double ratio = reduction_ratio(step);
  switch (options_.rule) {
    case DampingRule::kConstant:
      return;
    case DampingRule::kLevenbergMarquardt:
      if (ratio > 0.75) set(value_ / options_.factor);
      if (ratio < 0.25) set(value_ * options_.factor);
      return;
    case DampingRule::kNielsen:
      // A ratio that makes no sense counts like 0: doubled.
      return set(value_ * std::max(1.0 / 3, 1 - std::pow(2 * std::clamp(ratio, 0.0, 2.0) - 1, 3)));
    case DampingRule::kGradientNormalized:
      return set(value_ / 2);
    case DampingRule::kAdaptiveNewton:
    case DampingRule::kSuperUniversal:
      return set(value_ / 4);
  }
}

void DampingControl::fail() {
  ++failures_;
  switch (options_.rule) {
    case DampingRule::kConstant:
      return;
    case DampingRule::kLevenbergMarquardt:
      return set(value_ * options_.factor);
    case DampingRule::kNielsen:
      return set(value_ * std::pow(2.0, static_cast<double>(failures_)));
    case DampingRule::kGradientNormalized:
      return set(value_ * 2);
    case DampingRule::kAdaptiveNewton:
    case DampingRule::kSuperUniversal:
      return set(value_ * 4);
  }
}

void DampingControl::set(double value) {
  value_ = std::clamp(value, options_.min_damping, options_.max_damping);
}

void DampingControl::restore(double value, int64_t failures) {
  CURVATURE_CHECK(value >= 0 && std::isfinite(value) && failures >= 0, OptionError,
                  "DampingControl: cannot go on from damping {} after {} failures", value,
                  failures);
  value_ = value;
  failures_ = failures;
}

}  // namespace curvature::optim
