#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>

#include <curvature/core/error.hpp>
#include <curvature/optim/damping_control.hpp>

BOOST_AUTO_TEST_SUITE(damping_control_test, *boost::unit_test::tolerance(1e-14))

using namespace curvature;
using namespace curvature::optim;

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// A step whose loss falls by this much of what the model says, which is 1.
TrialStep with_ratio(double ratio) {
  return {.loss = 10, .new_loss = 10 - ratio, .model_change = -1};
}

/// A step of damping 1.5 and length 1 by which the loss falls as given, to another gradient.
TrialStep with_gradient(double decrease, double norm, double slope = -1) {
  return {.damping = 1.5,
          .loss = 10,
          .new_loss = 10 - decrease,
          .step_norm = 1,
          .new_gradient_norm = norm,
          .new_gradient_slope = slope};
}

}  // namespace

BOOST_AUTO_TEST_CASE(constant_damping_only_refuses_worse_losses) {
  DampingControl control({.damping = 0.5});
  BOOST_TEST(!control.adapts());
  BOOST_TEST(control.judge(with_ratio(0.1)));
  BOOST_TEST(!control.judge(with_ratio(-0.1)));
  BOOST_TEST(!control.judge(with_ratio(kNan)));
  BOOST_TEST(control.damping(7) == 0.5);
}

BOOST_AUTO_TEST_CASE(levenberg_marquardt_by_hand) {
  DampingControl control({.rule = DampingRule::kLevenbergMarquardt, .damping = 1, .factor = 1.5});
  BOOST_TEST(control.judge(with_ratio(0.9)));
  BOOST_TEST(control.damping(7) == 1 / 1.5);
  BOOST_TEST(control.judge(with_ratio(0.5)));
  BOOST_TEST(control.damping(7) == 1 / 1.5);
  BOOST_TEST(control.judge(with_ratio(0.1)));
  BOOST_TEST(control.damping(7) == 1.0);
  BOOST_TEST(!control.judge(with_ratio(-3)));
  BOOST_TEST(control.damping(7) == 1.5);
  BOOST_TEST(!control.judge(with_ratio(kNan)));
  BOOST_TEST(control.damping(7) == 1.5 * 1.5);
  // The loss fell although the model said it would not: the model is not trusted.
  BOOST_TEST(control.judge({.loss = 10, .new_loss = 9, .model_change = 1}));
  BOOST_TEST(control.damping(7) == 1.5 * 1.5 * 1.5);
  // Both changes are rounding: the model is as good as can be told.
  BOOST_TEST(control.judge(
      {.loss = 10, .new_loss = 10 + 1e-15, .model_change = -1e-16, .loss_rounding = 1e-14}));
  BOOST_TEST(control.damping(7) == 1.5 * 1.5);
}

BOOST_AUTO_TEST_CASE(nielsen_by_hand) {
  DampingControl control({.rule = DampingRule::kNielsen, .damping = 1});
  BOOST_TEST(control.judge(with_ratio(1)));  // 1 - 1^3 < 1/3
  BOOST_TEST(control.damping(7) == 1.0 / 3);
  BOOST_TEST(control.judge(with_ratio(0.75)));  // 1 - (1/2)^3
  BOOST_TEST(control.damping(7) == 1.0 / 3 * 0.875);
  BOOST_TEST(control.judge(with_ratio(0)));  // 1 + 1
  BOOST_TEST(control.damping(7) == 1.0 / 3 * 1.75);
  double expected = 1.0 / 3 * 1.75;
  for (const double factor : {2, 4, 8}) {
    BOOST_TEST(!control.judge(with_ratio(-1)));
    expected *= factor;
    BOOST_TEST(control.damping(7) == expected);
  }
  BOOST_TEST(control.failures() == 3);
  BOOST_TEST(control.judge(with_ratio(0.5)));  // keeps it, and forgets the failures
  BOOST_TEST(control.damping(7) == expected);
  control.fail();
  BOOST_TEST(control.damping(7) == 2 * expected);
}

BOOST_AUTO_TEST_CASE(gradient_normalized_by_hand) {
  DampingControl control({.rule = DampingRule::kGradientNormalized, .damping = 0.5});
  BOOST_TEST(control.needs_new_gradient());
  BOOST_TEST(control.damping(3) == 1.5);  // gamma = 2
  const double enough = 4.0 / (8 * 1.5);  // |g_new| = 2
  BOOST_TEST(control.judge(with_gradient(1.001 * enough, 2)));
  BOOST_TEST(control.damping(3) == 0.75);  // gamma = 4
  BOOST_TEST(!control.judge(with_gradient(0.999 * enough, 2)));
  BOOST_TEST(control.damping(3) == 1.5);
}

BOOST_AUTO_TEST_CASE(adaptive_newton_by_hand) {
  DampingControl control({.rule = DampingRule::kAdaptiveNewton, .damping = 4});
  BOOST_TEST(control.damping(9) == 6.0);
  BOOST_TEST(!control.judge(with_gradient(1.001, 3.001)));  // |g_new| > 2 damping |h|
  BOOST_TEST(control.damping(9) == 12.0);
  BOOST_TEST(!control.judge(with_gradient(0.999, 2.999)));  // the loss falls by less than 2/3 1.5
  BOOST_TEST(control.damping(9) == 24.0);
  BOOST_TEST(control.judge(with_gradient(1.001, 2.999)));
  BOOST_TEST(control.damping(9) == 12.0);
}

BOOST_AUTO_TEST_CASE(super_universal_by_hand) {
  DampingControl control({.rule = DampingRule::kSuperUniversal, .damping = 2, .exponent = 1});
  BOOST_TEST(control.damping(9) == 18.0);
  DampingControl gentler({.rule = DampingRule::kSuperUniversal, .damping = 2});
  BOOST_TEST(gentler.damping(8) == 8.0);
  BOOST_TEST(control.judge(with_gradient(0.1, 2, -4.001 / 6)));  // |g_new|^2 / (4 damping) = 4/6
  BOOST_TEST(control.damping(9) == 4.5);
  BOOST_TEST(!control.judge(with_gradient(0.1, 2, -3.999 / 6)));
  BOOST_TEST(control.damping(9) == 18.0);
}

BOOST_AUTO_TEST_CASE(limits_hold_and_a_state_can_be_restored) {
  DampingControl control(
      {.rule = DampingRule::kNielsen, .damping = 1, .min_damping = 0.5, .max_damping = 3});
  control.judge(with_ratio(1));
  BOOST_TEST(control.damping(7) == 0.5);
  for (int i = 0; i < 5; ++i) control.fail();
  BOOST_TEST(control.damping(7) == 3.0);
  control.restore(1, 2);
  control.fail();
  BOOST_TEST(control.damping(7) == 3.0);
  control.restore(0.6, 1);
  BOOST_TEST(control.value() == 0.6);
  BOOST_TEST(control.failures() == 1);
  BOOST_CHECK_THROW(control.restore(kNan, 0), OptionError);
}

BOOST_AUTO_TEST_CASE(wrong_options_are_refused) {
  const auto make = [](const DampingControlOptions& options) { return DampingControl(options); };
  BOOST_CHECK_THROW(make({.damping = -1}), OptionError);
  BOOST_CHECK_THROW(make({.damping = kNan}), OptionError);
  BOOST_CHECK_NO_THROW(make({.damping = 0}));
  BOOST_CHECK_THROW(make({.rule = DampingRule::kNielsen, .damping = 0}), OptionError);
  BOOST_CHECK_THROW(make({.min_damping = 2, .max_damping = 1}), OptionError);
  BOOST_CHECK_THROW(make({.min_damping = 0}), OptionError);
  BOOST_CHECK_THROW(make({.factor = 1}), OptionError);
  BOOST_CHECK_THROW(make({.exponent = 0.5}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
