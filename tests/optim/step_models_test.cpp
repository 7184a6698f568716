// The models that steps minimise: quadratic along some directions, cubic in a subspace.

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <curvature/core/error.hpp>
#include <curvature/core/random.hpp>
#include <curvature/optim/cubic_model.hpp>
#include <curvature/optim/step_size.hpp>

#include "support/dense_operator.hpp"

BOOST_AUTO_TEST_SUITE(step_models_test)

using namespace curvature;
using namespace curvature::optim;
using curvature::testing::close;
using curvature::testing::numbers;

namespace {

at::Tensor with_eigenvalues(const at::Tensor& values, uint64_t seed = 1) {
  return curvature::testing::with_eigenvalues(values, seed).cpu();
}
at::Tensor vector(double low, double high, int64_t n) { return numbers(low, high, n).cpu(); }

double value_of(const at::Tensor& h, const at::Tensor& g, double coefficient, const at::Tensor& y) {
  const double length = y.norm().item<double>();
  return (g.dot(y) + 0.5 * y.dot(h.mv(y))).item<double>() +
         coefficient / 6 * length * length * length;
}

/// The conditions of a global minimiser (Nesterov and Polyak 2006, section 5).
void check_cubic(const at::Tensor& h, const at::Tensor& g, double coefficient) {
  const CubicMinimum best = minimize_cubic(h, g, coefficient);
  const double shift = coefficient / 2 * best.step.norm().item<double>();
  BOOST_TEST(close(h.mv(best.step) + shift * best.step, -g, {1e-8, 1e-9}));
  const double lowest = std::get<0>(at::linalg_eigh(h))[0].item<double>();
  BOOST_TEST(lowest + shift > -1e-8 * std::max(1.0, std::abs(lowest)));
  BOOST_TEST(best.value == value_of(h, g, coefficient, best.step),
             boost::test_tools::tolerance(1e-9));
  for (uint64_t seed = 0; seed < 20; ++seed) {  // no other point is better
    const at::Tensor other =
        best.step + RandomSource(seed).normal(0, g.size(0)) * (0.1 + best.step.norm());
    BOOST_TEST(value_of(h, g, coefficient, other) >= best.value - 1e-12);
  }
}

}  // namespace

BOOST_AUTO_TEST_CASE(two_directions_as_a_dense_system) {
  const at::Tensor m = with_eigenvalues(vector(0.1, 5, 2)), slopes = vector(-2, 1, 2);
  const DirectionalModel model{slopes, m};
  const DirectionalMinimum best = minimize(model);
  BOOST_TEST(close(best.coefficients, at::linalg_solve(m, -slopes)));
  BOOST_TEST(best.change == change_of(model, best.coefficients),
             boost::test_tools::tolerance(1e-12));
}

BOOST_AUTO_TEST_CASE(null_short_and_dependent_directions) {
  const at::Tensor slope = vector(-2, -2, 1), curvature = vector(4, 4, 1).view({1, 1});
  const double change = -0.5;              // alone: 1/2
  const auto padded = [&](double scale) {  // a second direction, `scale` times the first
    const at::Tensor factors = at::tensor({1.0, scale}, at::kDouble);
    return DirectionalModel{slope * factors, curvature * at::outer(factors, factors)};
  };
  for (const double scale : {0.0, 1.0, -3.0, 1e-9}) {
    const DirectionalMinimum best = minimize(padded(scale));
    BOOST_TEST(best.change == change, boost::test_tools::tolerance(1e-10));
    const double along =
        best.coefficients[0].item<double>() + scale * best.coefficients[1].item<double>();
    BOOST_TEST(along == 0.5, boost::test_tools::tolerance(1e-10));
  }
  // Short but independent directions count.
  const at::Tensor scales = at::tensor({1.0, 1e-8}, at::kDouble);
  const at::Tensor m = with_eigenvalues(vector(1, 3, 2)), g = vector(-2, 1, 2);
  const DirectionalMinimum best = minimize({g * scales, m * at::outer(scales, scales)});
  BOOST_TEST(close(best.coefficients * scales, at::linalg_solve(m, -g)));
}

BOOST_AUTO_TEST_CASE(the_cubic_minimiser_meets_its_conditions) {
  for (const double lowest : {2.0, 0.0, -3.0}) {
    for (const double coefficient : {1e-3, 1.0, 1e3}) {
      BOOST_TEST_CONTEXT("lowest eigenvalue " << lowest << ", M " << coefficient) {
        check_cubic(with_eigenvalues(vector(lowest, 5, 6)), vector(-1, 2, 6), coefficient);
      }
    }
  }
  check_cubic(at::full({1, 1}, -2.0, at::kDouble), vector(1, 1, 1), 0.5);
}

BOOST_AUTO_TEST_CASE(the_hard_case) {
  // g has no part along the lowest eigenvector (the first axis), and the step without is short.
  const at::Tensor h = at::diag(at::tensor({-2.0, 1.0, 4.0}, at::kDouble));
  const at::Tensor g = at::tensor({0.0, 0.3, -0.3}, at::kDouble);
  check_cubic(h, g, 1);
  const CubicMinimum best = minimize_cubic(h, g, 1);
  BOOST_TEST(best.step.norm().item<double>() == 4, boost::test_tools::tolerance(1e-12));
  BOOST_TEST(std::abs(best.step[0].item<double>()) > 3);
  // Long enough without: the easy case.
  check_cubic(h, 100 * g, 1);
  // No gradient at all: the way down alone, of length 2 * 2 / M.
  const CubicMinimum down = minimize_cubic(h, 0 * g, 0.5);
  BOOST_TEST(down.step.norm().item<double>() == 8, boost::test_tools::tolerance(1e-12));
  BOOST_TEST(down.value < 0);
}

BOOST_AUTO_TEST_CASE(nowhere_to_go_and_wrong_use) {
  const at::Tensor h = with_eigenvalues(vector(0, 3, 4)), zero = vector(0, 0, 4);
  const CubicMinimum none = minimize_cubic(h, zero, 1);
  BOOST_TEST(none.step.norm().item<double>() == 0);
  BOOST_TEST(none.value == 0);
  BOOST_CHECK_THROW(minimize_cubic(h, zero, 0), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
