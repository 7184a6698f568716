// PSGD with Kronecker factors against its formulas spelled out, and against the inverse root.
#include <curvature/core/error.hpp>
#include <curvature/optim/psgd_kron_estimator.hpp>

#include "optim/psgd.hpp"

BOOST_AUTO_TEST_SUITE(psgd_kron_estimator_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

double largest_singular_value(const at::Tensor& a) {
  return torch::linalg_svdvals(a)[0].item<double>();
}

/// Optimizer conventions, PSGD-Kron whitening, deterministic form.
struct Reference {
  at::Tensor theta;
  PsgdGeometry geometry = PsgdGeometry::kQHalfEq;
  double rate = 0.01, preconditioner_rate = 0.1, lipschitz_decay = 0.9, momentum = 0.9;
  int64_t interval = 1;
  std::vector<at::Tensor> q{};
  std::vector<bool> dense{};
  std::vector<double> lipschitz{};
  at::Tensor m{};
  int64_t t = 0;

  void start(const at::Tensor& g) {
    const double w = std::pow(g.pow(4).mean().item<double>(), -0.125);
    const auto k = static_cast<double>(g.dim());
    for (int64_t i = 0; i < g.dim(); ++i) {
      q.push_back(std::pow(w, 1 / k) * torch::eye(g.size(i), g.options()));
      dense.push_back(g.size(i) > 1 && g.size(i) * g.size(i) <= g.numel());
      lipschitz.push_back(0);
    }
    m = torch::zeros_like(g);
  }

  at::Tensor whitened(const at::Tensor& x) const {
    std::vector<at::Tensor> p;
    for (const at::Tensor& factor : q) p.push_back(factor.t().matmul(factor));
    return multiplied(x, p);
  }

  void rotate(at::Tensor& x) const {
    at::Tensor n = x.t() - x;
    if (n.abs().max().item<double>() == 0) return;
    n = n / largest_singular_value(n);
    const double w = n.matmul(x).trace().item<double>();
    const double z = n.matmul(n).matmul(x).trace().item<double>();
    const double a = z < 0 ? std::min(0.125, -w / z) : 0.125;
    x = x + a * (n.matmul(x) + a / 2 * n.matmul(n).matmul(x));
  }

  /// ("EQ") What a white v gives along an axis, summed over unit tensors.
  at::Tensor expected_gram(const std::vector<at::Tensor>& adjoints, size_t i) const {
    at::Tensor sum = torch::zeros_like(q[i]);
    const int64_t count = m.numel();
    for (int64_t entry = 0; entry < count; ++entry) {
      const at::Tensor unit = torch::eye(count, m.options())[entry].view(m.sizes());
      const at::Tensor x = unfolded(multiplied(unit, adjoints), int64_t(i));
      sum += x.matmul(x.t());
    }
    return sum;
  }

  void move_equivariantly(const at::Tensor& g) {
    std::vector<at::Tensor> adjoints;
    for (const at::Tensor& factor : q) adjoints.push_back(torch::linalg_inv(factor).t());
    const at::Tensor a = multiplied(g, q);
    std::vector<at::Tensor> next;
    for (size_t i = 0; i < q.size(); ++i) {
      const at::Tensor x = unfolded(a, int64_t(i));
      at::Tensor first = x.matmul(x.t()), second = expected_gram(adjoints, i);
      if (!dense[i]) first = first.diagonal().diag(), second = second.diagonal().diag();
      const double ell = largest_singular_value(first + second);
      lipschitz[i] = std::max(lipschitz_decay * lipschitz[i] + (1 - lipschitz_decay) * ell, ell);
      next.push_back(q[i] -
                     preconditioner_rate / lipschitz[i] * (first - second).triu().matmul(q[i]));
    }
    q = next;
  }

  void move(size_t i, at::Tensor a, double c) {
    if (!dense[i]) a = a.diagonal().diag();
    const double ell = largest_singular_value(a) + c;
    lipschitz[i] = std::max(lipschitz_decay * lipschitz[i] + (1 - lipschitz_decay) * ell, ell);
    const double h = preconditioner_rate / lipschitz[i];
    at::Tensor& x = q[i];
    if (geometry == PsgdGeometry::kQHalfEq) {
      x = x - h * (a.matmul(x) - c * x);
      if (dense[i]) rotate(x);
    } else if (geometry == PsgdGeometry::kQeq) {
      x = x - h * (x.matmul(a) - c * x);
    } else {
      at::Tensor b = x - h / 2 * (a.matmul(x) - c * x);
      b = b - h / 2 * (b.matmul(a) - c * b);
      x = (b + b.t()) / 2;
    }
  }

  at::Tensor step(const at::Tensor& g) {
    if (t == 0) start(g);
    t += 1;
    const double beta = std::min(double(t - 1) / double(t), momentum);
    m = beta * m + (1 - beta) * g;
    if ((t - 1) % interval == 0 && geometry == PsgdGeometry::kEq) {
      move_equivariantly(g);
    } else if ((t - 1) % interval == 0) {
      const at::Tensor r = whitened(g);
      for (size_t i = 0; i < q.size(); ++i) {
        const at::Tensor x = unfolded(r, int64_t(i));
        move(i, x.matmul(x.t()), double(g.numel()) / double(g.size(int64_t(i))));
      }
    }
    at::Tensor u = whitened(m);
    const double rms = u.pow(2).mean().sqrt().item<double>();
    if (rms > 2) u = u * (2 / rms);
    theta = theta - rate * u.clamp(-10, 10);
    return theta;
  }
};

const std::vector<std::vector<int64_t>> kShapes = {{7, 5}, {3, 11}, {4, 3, 5}, {6}, {2, 3, 2, 2}};

/// P from the operator that the estimator gives out.
at::Tensor preconditioner(const Preconditioned& optimizer) {
  return materialize(*curvature::pow(optimizer.snapshot("w").front(), -0.5));
}

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual - expected).norm() / expected.norm()).item<double>();
}

}  // namespace

BOOST_AUTO_TEST_CASE(trajectories_are_those_of_the_conventions) {
  for (const PsgdGeometry geometry :
       {PsgdGeometry::kQHalfEq, PsgdGeometry::kQuad, PsgdGeometry::kQeq, PsgdGeometry::kEq}) {
    for (const auto& shape : kShapes) {
      for (const int64_t interval : {1, 5}) {
        const at::Tensor start = normal(shape, 7);
        Reference reference{.theta = start, .geometry = geometry, .interval = interval};
        Replay replay(start,
                      psgd_kron_estimator({.geometry = geometry, .refresh_interval = interval}),
                      published_psgd());
        for (const at::Tensor& g : some_gradients(shape, 12)) {
          const at::Tensor theta = replay.step(g);
          BOOST_TEST(((theta - reference.step(g)).abs().max().item<double>() < 1e-10));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(large_matrices_have_their_norm_from_lanczos) {
  // Larger than what is decomposed; the exact norms of the reference are those of singular values.
  const at::Tensor start = normal({60, 70}, 7);
  Reference reference{.theta = start};
  Replay replay(start, psgd_kron_estimator(), published_psgd());
  for (const at::Tensor& g : some_gradients({60, 70}, 6)) {
    const at::Tensor theta = replay.step(g);
    BOOST_TEST(((theta - reference.step(g)).abs().max().item<double>() < 1e-10));
  }
}

BOOST_AUTO_TEST_CASE(preconditioner_becomes_the_inverse_root_of_a_kronecker_covariance) {
  const at::Tensor a =
      torch::tensor({{1.5, 0.4, 0.0}, {0.0, 0.7, 0.2}, {0.0, 0.1, 1.0}}, double_options());
  const at::Tensor b = torch::tensor({{0.8, 0.3}, {-0.2, 1.3}}, double_options());
  // Moments of all 2^6 sign matrices are those of white noise exactly; their order repeats.
  const at::Tensor covariance = torch::kron(a.matmul(a.t()), b.matmul(b.t()));
  const auto [values, vectors] = torch::linalg_eigh(covariance);
  const at::Tensor root = vectors.matmul(values.rsqrt().diag()).matmul(vectors.t());
  for (const PsgdGeometry geometry :
       {PsgdGeometry::kQHalfEq, PsgdGeometry::kQuad, PsgdGeometry::kQeq, PsgdGeometry::kEq}) {
    Replay replay(
        torch::zeros({3, 2}, double_options()),
        psgd_kron_estimator({.preconditioner_rate = 0.01, .max_skew = 2, .geometry = geometry}),
        published_psgd(0));
    for (int64_t t = 0; t < 6000; ++t) {
      const at::Tensor bits = torch::bitwise_and(torch::full({6}, 37 * t % 64, at::kLong),
                                                 torch::tensor({1, 2, 4, 8, 16, 32}));
      const at::Tensor z = 2 * bits.gt(0).to(double_options()).view({3, 2}) - 1;
      replay.step(a.matmul(z).matmul(b.t()));
    }
    BOOST_TEST(relative_error(preconditioner(replay.optimizer), root) < 0.02);
  }
}

BOOST_AUTO_TEST_CASE(snapshot_is_what_directions_apply_the_inverse_root_of) {
  for (const auto& shape : kShapes) {
    const at::Tensor start = torch::zeros(shape, double_options());
    Replay replay(start, psgd_kron_estimator(),
                  {.learning_rate = 1,
                   .momentum = {.beta = 0},
                   .view = {.shape = ShapePolicy::kTensor, .vectors = VectorPolicy::kFull}});
    const auto gradients = some_gradients(shape, 4);
    for (size_t t = 0; t < 3; ++t) replay.step(gradients[t]);
    const at::Tensor before = replay.parameter.detach().clone();
    const at::Tensor u = before - replay.step(gradients[3]);
    const at::Tensor s = materialize(*replay.optimizer.snapshot("w").front());
    const auto [values, vectors] = torch::linalg_eigh(s);
    const at::Tensor expected =
        vectors.matmul(values.rsqrt() * vectors.t().matmul(gradients[3].flatten()));
    BOOST_TEST(close(u.flatten(), expected, {1e-9, 0}));
  }
}

BOOST_AUTO_TEST_CASE(balance_leaves_the_preconditioner_alone) {
  const at::Tensor start = normal({4, 5}, 7);
  const auto gradients = some_gradients({4, 5}, 12);
  Replay plain(start, psgd_kron_estimator({.max_skew = 9}), published_psgd());
  Replay balanced(start, psgd_kron_estimator({.max_skew = 9, .balance_interval = 2}),
                  published_psgd());
  for (const at::Tensor& g : gradients) {
    // One refresh is independent of the balance: P moves by what P G alone determines.
    BOOST_TEST(close(plain.step(g), balanced.step(g), {1e-10, 0}));
  }
  const Archive archive = balanced.optimizer.save();
  BOOST_TEST(archive.tensors.at("w/factor_0").abs().max().item<double>() ==
                 archive.tensors.at("w/factor_1").abs().max().item<double>(),
             boost::test_tools::tolerance(1e-12));
}

BOOST_AUTO_TEST_CASE(noise_bounds_the_preconditioner_and_repeats) {
  // One entry has no gradient: without noise its curvature is 0 and P grows for ever.
  at::Tensor g = torch::ones({3, 4}, double_options());
  g.select(1, 2).zero_();
  const auto largest = [&](double noise, uint64_t seed) {
    Replay replay(g,
                  psgd_kron_estimator({.preconditioner_rate = 0.5, .noise = noise, .seed = seed}),
                  published_psgd(0));
    for (int64_t t = 0; t < 400; ++t) replay.step(g);
    return preconditioner(replay.optimizer).abs().max().item<double>();
  };
  BOOST_TEST(largest(0, 1) > 1e6);
  BOOST_TEST(largest(1e-2, 1) < 1e4);
  BOOST_TEST(largest(1e-2, 1) == largest(1e-2, 1));
  BOOST_TEST(largest(1e-2, 1) != largest(1e-2, 2));
}

BOOST_AUTO_TEST_CASE(state_resumes_bit_for_bit) {
  for (const auto& shape : kShapes) {
    const auto gradients = some_gradients(shape, 9);
    BOOST_TEST(resumes(normal(shape, 7),
                       psgd_kron_estimator({.refresh_interval = 3, .noise = 1e-4}),
                       published_psgd(), gradients, 5));
  }
}

BOOST_AUTO_TEST_CASE(zero_first_gradient_starts_nothing) {
  const at::Tensor start = normal({4, 5}, 7);
  const auto gradients = some_gradients({4, 5}, 3);
  Replay late(start, psgd_kron_estimator(), published_psgd());
  BOOST_TEST(late.step(torch::zeros({4, 5}, double_options())).equal(start));
  BOOST_CHECK_THROW(late.optimizer.snapshot("w"), NotSupportedError);
  Replay prompt(start, psgd_kron_estimator(), published_psgd());
  for (const at::Tensor& g : gradients) BOOST_TEST(late.step(g).equal(prompt.step(g)));
}

BOOST_AUTO_TEST_CASE(single_precision_follows_double_precision) {
  for (const double size : {1.0, 1e-12}) {  // the fourth power of the second is 0 in float32
    const at::Tensor start = normal({6, 5}, 7);
    Replay doubles(start, psgd_kron_estimator(), published_psgd());
    Replay floats(start.to(at::kFloat), psgd_kron_estimator(), published_psgd());
    for (const at::Tensor& g : some_gradients({6, 5}, 12)) {
      const at::Tensor expected = doubles.step(size * g);
      BOOST_TEST(close(floats.step(size * g).to(at::kDouble), expected, {1e-5, 0}));
    }
  }
}

BOOST_AUTO_TEST_CASE(modes_decide_what_has_a_factor) {
  const auto gradients = some_gradients({4, 5}, 2);
  PreconditionedOptions options = published_psgd();
  options.view.max_dense = 4;
  options.view.beyond = ModeKind::kIdentity;
  Replay replay(normal({4, 5}, 7), psgd_kron_estimator(), options);
  for (const at::Tensor& g : gradients) replay.step(g);
  const Archive archive = replay.optimizer.save();
  BOOST_TEST(archive.tensors.contains("w/factor_0"));
  BOOST_TEST(!archive.tensors.contains("w/factor_1"));
  BOOST_TEST(replay.optimizer.state_bytes() == 8 * (20 + 2 * 16));
}

BOOST_AUTO_TEST_CASE(wrong_options_are_named) {
  BOOST_CHECK_THROW(psgd_kron_estimator({.preconditioner_rate = 0}), OptionError);
  BOOST_CHECK_THROW(psgd_kron_estimator({.lipschitz_decay = 1}), OptionError);
  BOOST_CHECK_THROW(psgd_kron_estimator({.refresh_interval = 0}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
