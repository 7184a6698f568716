#pragma once

#include <cstdint>

namespace curvature::optim {

/// How much is added to the curvature's diagonal, and how that goes on from step to step.
enum class DampingRule {
  kConstant,  ///< what the options say
  /// By rho, the change of the loss over that of the model: above 3/4 damping is divided by
  /// `factor`, below 1/4 multiplied. Martens, ICML 2010, section 4.1; Martens, Grosse, ICML 2015,
  /// section 6.5.
  kLevenbergMarquardt,
  /// By rho as well: times max(1/3, 1 - (2 rho - 1)^3) after a success; times 2, 4, 8, ... after
  /// failures in a row. Nielsen, IMM-REP-1999-05.
  kNielsen,
  /// |g| / gamma, starting with gamma = 1 / `damping`: gamma doubles after a step that lowers the
  /// loss by at least |g_new|^2 / (8 damping), and halves after another, which is not taken.
  /// Gradient-normalised smoothness.
  kGradientNormalized,
  /// sqrt(H |g|), starting with H = `damping`: a step h is taken if |g_new| <= 2 damping |h| and
  /// the loss falls by at least 2/3 damping |h|^2; H is divided by 4 then, and multiplied by 4
  /// otherwise. Mishchenko, SIAM J. Optim. 33(3), 2023 (AdaN).
  kAdaptiveNewton,
  /// H |g|^`exponent`, starting with H = `damping`: a step h is taken if <g_new, -h> >=
  /// |g_new|^2 / (4 damping); H is divided by 4 then, and multiplied by 4 otherwise. Doikov,
  /// Mishchenko, Nesterov, SIAM J. Optim. 34(1), 2024.
  kSuperUniversal,
};

/// A rule with its numbers.
struct DampingControlOptions {
  DampingRule rule = DampingRule::kConstant;  ///< see there
  double damping = 1e-3;      ///< at the start; of the rules with |g|: the number that they adapt
  double min_damping = 1e-9;  ///< of what the rule adapts
  double max_damping = 1e9;   ///< of what the rule adapts
  double factor = 1.5;        ///< of `kLevenbergMarquardt`
  double exponent = 2.0 / 3;  ///< of `kSuperUniversal`, in [2/3, 1]
};

/// What a step would do, for judging it.
struct TrialStep {
  double damping = 0;             ///< that made it
  double loss = 0;                ///< before
  double new_loss = 0;            ///< after; may be NaN
  double model_change = 0;        ///< of the quadratic model, without damping
  double step_norm = 0;           ///< |h|
  double new_gradient_norm = 0;   ///< |g_new|; only where `needs_new_gradient`
  double new_gradient_slope = 0;  ///< <g_new, h>; only where `needs_new_gradient`
  double loss_rounding = 0;       ///< differences of the loss below this say nothing
};

/// Chooses the damping of each step and judges steps; knows nothing of what made them.
class DampingControl {
 public:
  /// @throws OptionError
  explicit DampingControl(DampingControlOptions options);

  /// For a step from a point with this norm of the gradient.
  double damping(double gradient_norm) const;
  /// Whether the rule looks at the gradient after the step.
  bool needs_new_gradient() const;
  /// Whether the rule looks at the step at all.
  bool adapts() const { return options_.rule != DampingRule::kConstant; }
  /// Whether the step should be taken: it does not raise the loss, and meets the rule's own
  /// condition. Adapts the damping.
  bool judge(const TrialStep& step);
  /// Adapts as after a step that must not be taken (the damped curvature was not definite).
  void fail();

  /// What the rule adapts.
  double value() const { return value_; }
  /// Number of failures in a row.
  int64_t failures() const { return failures_; }
  /// Goes on from there. @throws OptionError unless the value is positive and finite
  void restore(double value, int64_t failures);

 private:
  bool is_success(const TrialStep& step) const;
  void adapt(const TrialStep& step);
  void set(double value);

  DampingControlOptions options_;
  double value_;
  int64_t failures_ = 0;
};

}  // namespace curvature::optim
