// Steepest descent under norms: Muon's formulas spelled out, polar factors by decomposition.
#include <curvature/core/error.hpp>
#include <curvature/optim/muon_estimator.hpp>

#include "optim/reference.hpp"

BOOST_AUTO_TEST_SUITE(muon_estimator_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

PreconditionedOptions published() {
  return {.learning_rate = 0.02,
          .momentum = {.beta = 0.95, .nesterov = true, .bias_correction = false}};
}

/// Optimizer conventions, Muon.
at::Tensor newton_schulz(const at::Tensor& n) {
  at::Tensor x = n / (n.norm() + 1e-7);
  const bool tall = x.size(0) > x.size(1);
  if (tall) x = x.t();
  for (int step = 0; step < 5; ++step) {
    const at::Tensor a = x.matmul(x.t());
    x = 3.4445 * x + (-4.7750 * a + 2.0315 * a.matmul(a)).matmul(x);
  }
  return tall ? x.t() : x;
}

/// The direction for one gradient, without momentum.
at::Tensor direction(const at::Tensor& g, const MuonOptions& options) {
  Replay replay(torch::zeros_like(g), muon_estimator(options),
                {.learning_rate = 1,
                 .momentum = {.beta = 0},
                 .view = {.shape = ShapePolicy::kTensor, .vectors = VectorPolicy::kFull}});
  return -replay.step(g);
}

/// A matrix `[m, n]` with singular values from `low` to 1.
at::Tensor with_singular_values(int64_t m, int64_t n, double low) {
  const auto [u, s, vt] = torch::linalg_svd(normal({m, n}, 4), false);
  return (u * torch::linspace(1, low, std::min(m, n), double_options())).matmul(vt);
}

}  // namespace

BOOST_AUTO_TEST_CASE(trajectories_are_those_of_the_conventions) {
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{7, 5}, {3, 11}, {4, 3, 5}, {2, 3, 2, 2}}) {
    for (const bool nesterov : {true, false}) {
      PreconditionedOptions options = published();
      options.momentum.nesterov = nesterov;
      at::Tensor theta = normal(shape, 7);
      Replay replay(theta, muon_estimator(), options);
      at::Tensor m = torch::zeros_like(theta);
      for (const at::Tensor& g : some_gradients(shape, 12)) {
        m = 0.95 * m + 0.05 * g;
        const at::Tensor n = (nesterov ? 0.05 * g + 0.95 * m : m).flatten(1);
        const double scale = std::sqrt(std::max(1.0, double(n.size(0)) / double(n.size(1))));
        theta = theta - 0.02 * scale * newton_schulz(n).view(shape);
        BOOST_TEST(((replay.step(g) - theta).abs().max().item<double>() < 1e-10));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(polynomials_reach_the_polar_factor_as_far_as_they_promise) {
  const auto worst = [](PolarMethod method, int64_t steps, double low) {
    double error = 0;
    for (const auto& [m, n] : std::vector<std::pair<int64_t, int64_t>>{{9, 6}, {6, 9}, {6, 6}}) {
      const at::Tensor x = with_singular_values(m, n, low);
      const at::Tensor difference =
          polar_factor(x, method, steps) - polar_factor(x, PolarMethod::kExact);
      error = std::max(error, torch::linalg_svdvals(difference)[0].item<double>());
    }
    return error;
  };
  BOOST_TEST(worst(PolarMethod::kPolarExpress, 8, 0.01) < 1e-3);
  BOOST_TEST(worst(PolarMethod::kPolarExpress, 12, 0.01) < 1e-10);
  BOOST_TEST(worst(PolarMethod::kQuintic, 5, 0.1) < 0.04);
  BOOST_TEST(worst(PolarMethod::kMuon, 5, 0.1) < 0.35);
  BOOST_TEST(worst(PolarMethod::kCubic, 10, 0.01) > 0.01);
  BOOST_TEST(worst(PolarMethod::kCubic, 40, 0.01) < 1e-12);
}

BOOST_AUTO_TEST_CASE(exact_polar_factor_is_orthonormal_on_the_range) {
  const at::Tensor full = with_singular_values(4, 6, 0.3);
  const at::Tensor u = polar_factor(full, PolarMethod::kExact);
  BOOST_TEST(close(u.matmul(u.t()), torch::eye(4, double_options())));
  const at::Tensor thin = normal({4, 2}, 1).matmul(normal({2, 6}, 2));
  const at::Tensor v = polar_factor(thin, PolarMethod::kExact);
  BOOST_TEST(close(v.matmul(v.t()).matmul(thin), thin));
  BOOST_TEST(v.square().sum().item<double>() == 2.0, boost::test_tools::tolerance(1e-10));
  const at::Tensor zero = torch::zeros({3, 4}, double_options());
  BOOST_TEST(polar_factor(zero, PolarMethod::kExact).equal(zero));
}

BOOST_AUTO_TEST_CASE(directions_are_the_steepest_of_their_norm) {
  const at::Tensor g = normal({4, 6}, 1);
  const auto plain = [&](DescentNorm norm) {
    return direction(g,
                     {.norm = norm, .method = PolarMethod::kExact, .scale = DescentScale::kNone});
  };
  const auto gain = [&](const at::Tensor& u) { return (g * u).sum().item<double>(); };
  const auto tolerance = boost::test_tools::tolerance(1e-12);
  BOOST_TEST(gain(plain(DescentNorm::kSpectral)) == torch::linalg_svdvals(g).sum().item<double>(),
             tolerance);
  BOOST_TEST(gain(plain(DescentNorm::kMax)) == g.abs().sum().item<double>(), tolerance);
  BOOST_TEST(gain(plain(DescentNorm::kFrobenius)) == g.norm().item<double>(), tolerance);
  BOOST_TEST(plain(DescentNorm::kMax).equal(g.sign()));
}

BOOST_AUTO_TEST_CASE(scales_are_those_of_their_sources) {
  const at::Tensor g = normal({8, 2}, 1), sign = g.sign();
  const auto scaled = [&](DescentScale scale) {
    return direction(g, {.norm = DescentNorm::kMax, .scale = scale});
  };
  BOOST_TEST(close(scaled(DescentScale::kRowsOverColumns), 2 * sign));
  BOOST_TEST(close(scaled(DescentScale::kAdamRms), 0.2 * std::sqrt(8.0) * sign));
  BOOST_TEST(close(scaled(DescentScale::kSpectralRatio), 2 * sign));
  BOOST_TEST(close(scaled(DescentScale::kDualNorm), g.abs().sum() * sign));
  const at::Tensor wide = normal({2, 8}, 1);
  BOOST_TEST(close(direction(wide, {.norm = DescentNorm::kMax}), wide.sign()));
  BOOST_TEST(
      close(direction(wide, {.norm = DescentNorm::kMax, .scale = DescentScale::kSpectralRatio}),
            0.5 * wide.sign()));
}

BOOST_AUTO_TEST_CASE(other_norms_take_any_number_of_axes) {
  const at::Tensor g = normal({3, 2, 4}, 1);
  BOOST_TEST(close(direction(g, {.norm = DescentNorm::kFrobenius, .scale = DescentScale::kNone}),
                   g / g.norm()));
  BOOST_CHECK_EXCEPTION(direction(g, {}), OptionError, [](const OptionError& error) {
    return std::string(error.what()).find("'w'") != std::string::npos;
  });
}

BOOST_AUTO_TEST_CASE(zero_gradients_move_nothing) {
  const at::Tensor zero = torch::zeros({3, 4}, double_options());
  for (const DescentNorm norm :
       {DescentNorm::kSpectral, DescentNorm::kMax, DescentNorm::kFrobenius}) {
    BOOST_TEST(direction(zero, {.norm = norm}).equal(zero));
  }
}

BOOST_AUTO_TEST_CASE(state_resumes_and_single_precision_follows) {
  const at::Tensor start = normal({6, 5}, 7);
  const auto gradients = some_gradients({6, 5}, 9);
  BOOST_TEST(resumes(start, muon_estimator(), published(), gradients, 5));
  Replay doubles(start, muon_estimator(), published());
  Replay floats(start.to(at::kFloat), muon_estimator(), published());
  for (const at::Tensor& g : gradients) {
    const at::Tensor expected = doubles.step(g);
    BOOST_TEST(close(floats.step(g).to(at::kDouble), expected, {1e-5, 0}));
  }
  BOOST_CHECK_THROW(doubles.optimizer.snapshot("w"), NotSupportedError);
}

BOOST_AUTO_TEST_CASE(products_in_bfloat16_come_near_those_of_the_parameter) {
  for (const auto& [m, n] : std::vector<std::pair<int64_t, int64_t>>{{40, 30}, {200, 300}}) {
    const at::Tensor g = with_singular_values(m, n, 0.1);
    const at::Tensor exact = direction(g, {}), rounded = direction(g, {.products = at::kBFloat16});
    const double scale = std::sqrt(std::max(1.0, static_cast<double>(m) / static_cast<double>(n)));
    const at::Tensor published = newton_schulz(g.to(at::kBFloat16)).to(at::kDouble) * scale;
    const auto error = [&](const at::Tensor& u) {
      return ((u - exact).norm() / exact.norm()).item<double>();
    };
    BOOST_TEST(error(rounded) < error(published));
    BOOST_TEST(error(published) < 0.1);
    BOOST_TEST(error(rounded) > 1e-3);  // not the same products
    const at::Tensor same = direction(g, {.products = at::kDouble});
    BOOST_TEST(close(same, exact, {1e-14, 0}));
  }
}

BOOST_AUTO_TEST_CASE(wrong_options_are_named) {
  BOOST_CHECK_THROW(muon_estimator({.steps = 0}), OptionError);
  BOOST_CHECK_THROW(muon_estimator({.products = at::kLong}), OptionError);
  BOOST_CHECK_THROW(muon_estimator({.method = PolarMethod::kExact, .products = at::kBFloat16}),
                    OptionError);
  BOOST_CHECK_THROW(polar_factor(normal({3}, 1)), ShapeError);
}

BOOST_AUTO_TEST_SUITE_END()
