// Spectral-factorised curvature against its formulas spelled out, and against what it must learn.
#include <curvature/core/error.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/optim/spectral_factorized_estimator.hpp>

#include "optim/reference.hpp"

BOOST_AUTO_TEST_SUITE(spectral_factorized_estimator_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

PreconditionedOptions shell(double rate = 0.01) {
  return {.learning_rate = rate,
          .view = {.shape = ShapePolicy::kTensor, .vectors = VectorPolicy::kFull}};
}

/// Optimizer conventions, spectral-factorised curvature, for any number of axes.
struct Reference {
  at::Tensor theta;
  SpectralFactorizedOptions options{};
  double rate = 0.01, beta1 = 0.9;
  double al = 0;
  std::vector<at::Tensor> q{}, e{};
  at::Tensor m{};
  int64_t t = 0;

  at::Tensor rotated(const at::Tensor& x) const {
    std::vector<at::Tensor> transposed;
    for (const at::Tensor& basis : q) transposed.push_back(basis.t());
    return multiplied(x, transposed);
  }

  void update(const at::Tensor& g) {
    const double r = 1 - options.beta2;
    const at::Tensor p = rotated(g);
    const auto old = e;
    double mean = 0;
    for (size_t i = 0; i < q.size(); ++i) {
      const int64_t d = g.size(int64_t(i));
      std::vector<at::Tensor> inverses;
      for (size_t j = 0; j < q.size(); ++j) {
        inverses.push_back(j == i ? torch::eye(d, g.options()) : old[j].reciprocal().diag());
      }
      const at::Tensor weighted = unfolded(multiplied(p, inverses), int64_t(i));
      const at::Tensor t_i =
          weighted.matmul(unfolded(p, int64_t(i)).t()) / (double(g.numel()) / double(d) * al);
      const at::Tensor q_i = t_i.diagonal() / old[i];
      if (i == 0) mean = q_i.mean().item<double>();
      e[i] = old[i] * (r * (q_i - q_i.mean())).exp();
      at::Tensor z = torch::zeros({d, d}, g.options());
      for (int64_t a = 0; a < d; ++a) {
        for (int64_t b = 0; b < a; ++b) {
          const double gap = (old[i][a] - old[i][b]).item<double>();
          if (std::abs(gap) > options.gap_tolerance) z[a][b] = -t_i[a][b] / gap;
        }
      }
      at::Tensor n = r / 2 * (z - z.t());
      const double norm = n.norm().item<double>();
      if (norm > options.max_rotation) n = n * (options.max_rotation / norm);
      const at::Tensor eye = torch::eye(d, g.options());
      q[i] = q[i].matmul(eye + n).matmul((eye - n).inverse());
    }
    al *= std::exp(r * (mean - 1));
  }

  at::Tensor step(const at::Tensor& g) {
    if (t == 0) {
      al = g.square().mean().item<double>();
      for (const int64_t d : g.sizes()) {
        q.push_back(torch::eye(d, g.options()));
        e.push_back(torch::ones(d, g.options()));
      }
      m = torch::zeros_like(g);
    } else if (t % options.refresh_interval == 0) {
      update(g);
    }
    t += 1;
    m = beta1 * m + (1 - beta1) * g;
    at::Tensor values = al * torch::ones_like(g);
    for (size_t i = 0; i < e.size(); ++i) {
      std::vector<int64_t> shape(e.size(), 1);
      shape[i] = -1;
      values = values * e[i].view(shape);
    }
    const at::Tensor u = rotated(m / (1 - std::pow(beta1, double(t)))) /
                         (values.pow(1 / options.root) + options.epsilon);
    theta = theta - rate * multiplied(u, q);
    return theta;
  }
};

const std::vector<std::vector<int64_t>> kShapes = {{7, 5}, {3, 11}, {4, 3, 5}, {6}, {2, 3, 2, 2}};

at::Tensor spd(int64_t n, uint64_t seed) {
  const at::Tensor x = normal({n, 2 * n}, seed);
  return x.matmul(x.t()) / double(2 * n);
}

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual - expected).norm() / expected.norm()).item<double>();
}

}  // namespace

BOOST_AUTO_TEST_CASE(trajectories_are_those_of_the_conventions) {
  for (const auto& shape : kShapes) {
    for (const double root : {2.0, 1.0, 3.0}) {
      for (const int64_t interval : {1, 5}) {
        const SpectralFactorizedOptions options{.root = root, .refresh_interval = interval};
        const at::Tensor start = normal(shape, 7);
        Reference reference{.theta = start, .options = options};
        Replay replay(start, spectral_factorized_estimator(options), shell());
        for (const at::Tensor& g : some_gradients(shape, 12)) {
          const at::Tensor theta = replay.step(g);
          BOOST_TEST(((theta - reference.step(g)).abs().max().item<double>() < 1e-10));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(determinants_stay_one_and_the_divergence_reaches_its_minimum) {
  // A pool of gradients in turn: the fixed point is the flip-flop optimum of the pool.
  const auto pool = some_gradients({4, 3}, 24);
  Replay replay(torch::zeros({4, 3}, double_options()),
                spectral_factorized_estimator({.beta2 = 0.998}), shell(0));
  for (int64_t t = 0; t < 24 * 400; ++t) replay.step(pool[size_t(t % 24)]);
  const Archive archive = replay.optimizer.save();
  for (const char* name : {"w/eigenvalues_0", "w/eigenvalues_1"}) {
    BOOST_TEST(archive.tensors.at(name).log().sum().abs().item<double>() < 1e-10);
  }
  at::Tensor a = torch::eye(4, double_options()), b = torch::eye(3, double_options());
  for (int iteration = 0; iteration < 100; ++iteration) {
    at::Tensor next_a = torch::zeros_like(a), next_b = torch::zeros_like(b);
    for (const at::Tensor& g : pool) next_a += g.matmul(b.inverse()).matmul(g.t()) / (3 * 24);
    for (const at::Tensor& g : pool) next_b += g.t().matmul(next_a.inverse()).matmul(g) / (4 * 24);
    a = next_a;
    b = next_b;
  }
  const at::Tensor s = materialize(*replay.optimizer.snapshot("w").front());
  BOOST_TEST(relative_error(s, torch::kron(a, b)) < 0.03);
}

BOOST_AUTO_TEST_CASE(matrix_follows_the_moving_average_to_second_order) {
  // The error falls a hundredfold with each decade of the rate, for indefinite samples too.
  const at::Tensor s = spd(5, 1), x = normal({5, 5}, 2), indefinite = x + x.t();
  for (const at::Tensor& h : {spd(5, 3), indefinite}) {
    for (const double forgetting : {1.0, 0.0}) {
      const auto error = [&](double rate) {
        SpectralMatrix moved = SpectralMatrix::of(s);
        update(moved, h, {.rate = rate, .forgetting = forgetting});
        const at::Tensor expected = s + rate * (h - forgetting * s);
        return (materialize(*moved.as_operator()) - expected).norm().item<double>();
      };
      BOOST_TEST(error(1e-3) / error(1e-4) == 100, boost::test_tools::tolerance(0.1));
      BOOST_TEST(error(1e-4) / error(1e-5) == 100, boost::test_tools::tolerance(0.02));
    }
  }
}

BOOST_AUTO_TEST_CASE(matrix_stays_positive_whatever_it_is_fed) {
  SpectralMatrix s = SpectralMatrix::identity(4, 2, double_options());
  for (uint64_t t = 0; t < 200; ++t) {
    const at::Tensor x = normal({4, 4}, t);
    update(s, -10 * (x + x.t()), {.rate = 0.2});
    BOOST_TEST(s.eigenvalues.gt(0).all().item<bool>());
  }
  BOOST_TEST(close(s.basis.t().matmul(s.basis), torch::eye(4, double_options()), {1e-12, 0}));
}

BOOST_AUTO_TEST_CASE(matrix_converges_to_the_sample_and_gives_all_powers) {
  const at::Tensor target = spd(5, 3);
  SpectralMatrix s = SpectralMatrix::identity(5, 1, double_options());
  for (int t = 0; t < 3000; ++t) update(s, target, {.rate = 0.1});
  BOOST_TEST(close(materialize(*s.as_operator()), target, {1e-8, 0}));
  const at::Tensor x = normal({5, 2}, 1);
  BOOST_TEST(close(s.power(-1, target.matmul(x)), x, {1e-7, 0}));
  const at::Tensor v = x.select(1, 0);
  BOOST_TEST(close(s.power(0.5, s.power(0.5, v)), target.matmul(v), {1e-7, 0}));
}

BOOST_AUTO_TEST_CASE(search_without_gradients_adapts_its_covariance) {
  // Natural evolution strategy with recombination weights, the adaptation of CMA-ES, on an
  // ellipsoid of condition 1e4.
  constexpr int64_t kDimension = 4, kSamples = 12, kParents = 4;
  const at::Tensor mix = std::get<0>(torch::linalg_qr(normal({kDimension, kDimension}, 3)));
  const at::Tensor scales = torch::logspace(0, 2, kDimension, 10, double_options());
  const auto cost = [&](const at::Tensor& x) {  // columns
    return (scales.unsqueeze(1) * mix.t().matmul(x)).square().sum({0});
  };
  const auto search = [&](double rate) {
    at::Tensor mean = torch::ones(kDimension, double_options());
    SpectralMatrix s = SpectralMatrix::identity(kDimension, 0.25, double_options());
    for (uint64_t t = 0; t < 250; ++t) {
      const at::Tensor y = s.power(0.5, normal({kDimension, kSamples}, t));
      const at::Tensor best = cost(mean.unsqueeze(1) + y).argsort().narrow(0, 0, kParents);
      const at::Tensor steps = y.index_select(1, best);
      mean = mean + steps.mean(1);
      if (rate > 0) update(s, steps.matmul(steps.t()) / double(kParents), {.rate = rate});
    }
    return cost(mean.unsqueeze(1)).item<double>();
  };
  BOOST_TEST(search(0.2) < 1e-8);
  BOOST_TEST(search(0) > 1e-2);
}

BOOST_AUTO_TEST_CASE(snapshot_is_what_directions_apply_the_inverse_root_of) {
  for (const auto& shape : kShapes) {
    PreconditionedOptions options = shell(1);
    options.momentum.beta = 0;
    Replay replay(torch::zeros(shape, double_options()),
                  spectral_factorized_estimator({.epsilon = 0}), options);
    const auto gradients = some_gradients(shape, 5);
    for (size_t t = 0; t < 4; ++t) replay.step(gradients[t]);
    const at::Tensor before = replay.parameter.detach().clone();
    const at::Tensor u = (before - replay.step(gradients[4])).flatten();
    const OperatorPtr s = replay.optimizer.snapshot("w").front();
    BOOST_TEST(close(curvature::pow(s, 0.5)->apply(u), gradients[4].flatten(), {1e-9, 0}));
  }
}

BOOST_AUTO_TEST_CASE(axes_may_be_diagonal_or_have_no_factor) {
  // All axes diagonal and one without factor: e follows the squares of its axis alone.
  for (const ModeKind beyond : {ModeKind::kDiagonal, ModeKind::kIdentity}) {
    PreconditionedOptions options = shell();
    options.view.max_dense = 4;
    options.view.beyond = beyond;
    Replay replay(normal({4, 6}, 7), spectral_factorized_estimator(), options);
    const auto gradients = some_gradients({4, 6}, 6);
    for (const at::Tensor& g : gradients) replay.step(g);
    const Archive archive = replay.optimizer.save();
    BOOST_TEST(!archive.tensors.contains("w/basis_1"));
    BOOST_TEST(archive.tensors.contains("w/eigenvalues_1") == (beyond == ModeKind::kDiagonal));
    BOOST_TEST(replay.optimizer.snapshot("w").front()->trace().value() > 0);
    BOOST_TEST(replay.optimizer.state_bytes() ==
               8 * (24 + 20 + (beyond == ModeKind::kDiagonal ? 6 : 0)));
    BOOST_TEST(resumes(normal({4, 6}, 7), spectral_factorized_estimator(), options, gradients, 3));
  }
}

BOOST_AUTO_TEST_CASE(spikes_can_be_bounded) {
  const auto gradients = some_gradients({4, 5}, 4);
  const auto largest = [&](double bound) {
    Replay replay(normal({4, 5}, 7), spectral_factorized_estimator({.max_log_change = bound}),
                  shell());
    for (const at::Tensor& g : gradients) replay.step(g);
    replay.step(30 * gradients[0]);
    return replay.optimizer.save().tensors.at("w/eigenvalues_0").max().item<double>();
  };
  BOOST_TEST(largest(1e9) > 100);
  BOOST_TEST(largest(0.5) < 10);
}

BOOST_AUTO_TEST_CASE(state_resumes_bit_for_bit) {
  for (const auto& shape : kShapes) {
    BOOST_TEST(
        resumes(normal(shape, 7),
                spectral_factorized_estimator({.refresh_interval = 2, .orthogonalize_interval = 2}),
                shell(), some_gradients(shape, 9), 5));
  }
}

BOOST_AUTO_TEST_CASE(zero_first_gradient_starts_nothing) {
  const at::Tensor start = normal({4, 5}, 7);
  Replay late(start, spectral_factorized_estimator(), shell());
  BOOST_TEST(late.step(torch::zeros({4, 5}, double_options())).equal(start));
  BOOST_CHECK_THROW(late.optimizer.snapshot("w"), NotSupportedError);
  Replay prompt(start, spectral_factorized_estimator(), shell());
  for (const at::Tensor& g : some_gradients({4, 5}, 3)) {
    BOOST_TEST(late.step(g).equal(prompt.step(g)));
  }
}

BOOST_AUTO_TEST_CASE(single_and_half_precision_follow_double_precision) {
  const at::Tensor start = normal({6, 5}, 7);
  Replay doubles(start, spectral_factorized_estimator(), shell());
  Replay floats(start.to(at::kFloat), spectral_factorized_estimator(), shell());
  PreconditionedOptions options = shell();
  options.view.dtype = at::kBFloat16;
  Replay halves(start.to(at::kFloat), spectral_factorized_estimator(), options);
  for (const at::Tensor& g : some_gradients({6, 5}, 100)) {
    const at::Tensor expected = doubles.step(g);
    floats.step(g);
    halves.step(g);
  }
  const at::Tensor moved = doubles.parameter.detach() - start;
  const auto error = [&](const Replay& replay) {
    return relative_error(replay.parameter.detach().to(at::kDouble) - start, moved);
  };
  BOOST_TEST(error(floats) < 1e-2);
  BOOST_TEST(error(halves) < 0.2);
  const at::Tensor q = halves.optimizer.save().tensors.at("w/basis_0");
  BOOST_TEST(q.scalar_type() == at::kBFloat16);
  BOOST_TEST(relative_error(q.to(at::kDouble).t().matmul(q.to(at::kDouble)),
                            torch::eye(6, double_options())) < 0.02);
}

BOOST_AUTO_TEST_CASE(wrong_options_and_samples_are_named) {
  BOOST_CHECK_THROW(spectral_factorized_estimator({.beta2 = 1}), OptionError);
  BOOST_CHECK_THROW(spectral_factorized_estimator({.root = 0}), OptionError);
  BOOST_CHECK_THROW(spectral_factorized_estimator({.max_rotation = 0}), OptionError);
  SpectralMatrix s = SpectralMatrix::identity(3, 1, double_options());
  BOOST_CHECK_THROW(update(s, normal({2, 2}, 1)), ShapeError);
  BOOST_CHECK_THROW(update(s, torch::full({3, 3}, NAN, double_options())), NumericalError);
  BOOST_CHECK_THROW(update(s, spd(3, 1), {.rate = 0}), OptionError);
  BOOST_CHECK_THROW(SpectralMatrix::of(-spd(3, 1)), NumericalError);
  BOOST_TEST(s.eigenvalues.equal(torch::ones(3, double_options())));
}

BOOST_AUTO_TEST_SUITE_END()
