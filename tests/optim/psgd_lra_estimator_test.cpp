// PSGD with a low-rank root against dense formulas, and against the inverse root.
#include <curvature/core/error.hpp>
#include <curvature/optim/psgd_lra_estimator.hpp>

#include "optim/archive_visitor.hpp"
#include "optim/psgd.hpp"

BOOST_AUTO_TEST_SUITE(psgd_lra_estimator_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

at::Tensor outer(const at::Tensor& a) { return torch::outer(a, a); }

/// The docstring's update with n x n matrices; what is integrated out is a sum over unit vectors.
struct Dense {
  at::Tensor u, v, d;
  double bound_u = 0, bound_v = 0, bound_d = 0;

  at::Tensor eye() const { return torch::eye(d.size(0), d.options()); }
  at::Tensor q() const { return (eye() + u.matmul(v.t())).matmul(d.diag()); }
  at::Tensor p() const { return q().t().matmul(q()); }

  void balance() {
    const double ratio = (u.norm() / v.norm()).item<double>();
    const at::Tensor a = u.t().matmul(u) / ratio, b = v.t().matmul(v) * ratio;
    const at::Tensor e = 0.1 * (a - b) / (a.trace() + b.trace());
    const at::Tensor k = torch::eye(u.size(1), u.options()) - e + e.matmul(e) / 2;
    u = u.matmul(k) / std::sqrt(ratio);
    v = v.matmul(torch::linalg_inv(k)) * std::sqrt(ratio);
  }

  static double step_size(double& running, double bound) {
    running = std::max(0.9 * running + 0.1 * bound, bound);
    return 0.1 / running;
  }

  /// `probes`: v as rows of weight one each.
  void move(const at::Tensor& h, const at::Tensor& probes, bool left) {
    balance();
    const at::Tensor root = q(), whole = p();
    const at::Tensor a = root.matmul(h), ph = whole.matmul(h);
    at::Tensor n = torch::zeros_like(root), second = torch::zeros_like(h);
    for (int64_t i = 0; i < probes.size(0); ++i) {
      n += outer(torch::linalg_inv(root.t()).matmul(probes[i]));
      second += probes[i] * torch::linalg_inv(whole).matmul(probes[i]);
    }
    const at::Tensor old = d, core = eye() + v.matmul(u.t());
    d = d - step_size(bound_d,
                      (ph * h).abs().max().item<double>() + second.abs().max().item<double>()) *
                (ph * h - second) * d;
    const at::Tensor x = left ? v : u, xx = x.matmul(x.t());
    double& running = left ? bound_u : bound_v;
    const double bound = (a.norm() * xx.matmul(a).norm() + n.matmul(xx).norm()).item<double>();
    const at::Tensor f = step_size(running, bound) * (outer(a) - n).matmul(x);
    if (left) {
      u = u - f.matmul(torch::eye(u.size(1), u.options()) + v.t().matmul(u));
    } else {
      v = v - core.matmul(f);
    }
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(steps_are_those_of_dense_formulas) {
  for (const bool is_newton : {false, true}) {
    const auto form = psgd_use(PsgdLraOptions{.rank = 3}).make(view_of({12}));
    form->start(0.7);
    Archive archive;
    ArchiveWriter writer(archive);
    writer.under("w");
    form->visit(writer);
    Dense dense{archive.tensors.at("w/left"), archive.tensors.at("w/right"),
                archive.tensors.at("w/scale")};
    BOOST_TEST(close(dense.u.norm(), torch::full({}, std::sqrt(0.1), double_options())));
    int64_t left_moves = 0;
    for (int64_t number = 1; number <= 12; ++number) {
      const at::Tensor h = normal({12}, 50 + number), v = normal({12}, 90 + number);
      form->move(h, is_newton ? v : at::Tensor(), number);
      Dense left = dense, right = dense;
      left.move(h, is_newton ? v.unsqueeze(0) : dense.eye(), true);
      right.move(h, is_newton ? v.unsqueeze(0) : dense.eye(), false);
      const at::Tensor found = form->apply(v);
      // By a coin.
      const bool is_left = static_cast<bool>(close(found, left.p().matmul(v), {1e-10, 0}));
      dense = is_left ? left : right;
      left_moves += is_left;
      BOOST_TEST(close(found, dense.p().matmul(v), {1e-10, 0}));
    }
    BOOST_TEST(left_moves > 0);
    BOOST_TEST(left_moves < 12);
  }
}

BOOST_AUTO_TEST_CASE(rank_zero_is_a_diagonal) {
  Replay low(normal({3, 4}, 1), psgd_lra_estimator({.rank = 0}), published_psgd());
  const auto gradients = some_gradients({3, 4}, 8);
  at::Tensor d, m = torch::zeros({3, 4}, double_options()), theta = normal({3, 4}, 1);
  double bound = 0;
  for (size_t t = 0; t < gradients.size(); ++t) {
    const at::Tensor& g = gradients[t];
    if (t == 0) d = torch::full_like(g, std::pow(g.pow(4).mean().item<double>(), -0.125));
    const double now = ((d * g).square().max() + d.pow(-2).max()).item<double>();
    bound = std::max(0.9 * bound + 0.1 * now, now);
    d = d - 0.1 / bound * ((d * g).square() - d.pow(-2)) * d;
    const double b = std::min(double(t) / double(t + 1), 0.9);
    m = b * m + (1 - b) * g;
    at::Tensor u = d.square() * m;
    u = u * std::min(1.0, 2 / u.square().mean().sqrt().item<double>());
    theta = theta - 0.01 * u.clamp(-10, 10);
    BOOST_TEST(close(low.step(g), theta, {1e-12, 0}));
  }
}

/// A curvature whose inverse has the form of P is found to rounding: at the optimum the pairs
/// (v, H v) leave nothing to do.
BOOST_AUTO_TEST_CASE(newton_pairs_find_a_curvature_of_the_form) {
  constexpr int64_t kSize = 12, kRank = 2;
  const at::Tensor root = (torch::eye(kSize, double_options()) +
                           normal({kSize, kRank}, 1).matmul(normal({kSize, kRank}, 2).t()) / kSize)
                              .matmul((0.5 + normal({kSize}, 3).abs()).diag());
  const at::Tensor expected = root.t().matmul(root), curvature = torch::linalg_inv(expected);
  const auto form =
      psgd_use(PsgdLraOptions{.rank = kRank, .preconditioner_rate = 0.5}).make(view_of({kSize}));
  form->start(1);
  for (int64_t number = 1; number <= 20000; ++number) {
    const at::Tensor v = normal({kSize}, 100 + number);
    form->move(curvature.matmul(v), v, number);
  }
  BOOST_TEST(close(preconditioner(*form), expected, {1e-6, 0}));
}

BOOST_AUTO_TEST_CASE(whitening_comes_to_the_optimum_of_the_criterion) {
  // diag + rank 2; the gradients are the columns of a root of S times those of a Hadamard matrix,
  // so that their mean square is S exactly.
  constexpr int64_t kSize = 8;
  at::Tensor hadamard = torch::ones({1, 1}, double_options());
  for (int i = 0; i < 3; ++i) {
    hadamard =
        torch::cat({torch::cat({hadamard, hadamard}, 1), torch::cat({hadamard, -hadamard}, 1)});
  }
  const at::Tensor spikes = normal({kSize, 2}, 4);
  const at::Tensor s = spikes.matmul(spikes.t()) + torch::eye(kSize, double_options());
  const at::Tensor roots = torch::linalg_cholesky(s).matmul(hadamard);
  const auto form =
      psgd_use(PsgdLraOptions{.rank = 2, .preconditioner_rate = 0.01}).make(view_of({kSize}));
  form->start(0.5);
  for (int64_t number = 1; number <= 20000; ++number) {
    form->move(roots.select(1, number * 3 % kSize).contiguous(), {}, number);
  }
  const at::Tensor p = preconditioner(*form);
  const double criterion = (p.matmul(s).trace() + torch::linalg_inv(p).trace()).item<double>();
  const double least = 2 * torch::linalg_eigvalsh(s).sqrt().sum().item<double>();
  BOOST_TEST(criterion >= least - 1e-9);
  // Gradients for which the bound of the step size is larger count less, whatever the rate.
  BOOST_TEST(criterion < least * (1 + 1e-2));
}

BOOST_AUTO_TEST_CASE(snapshot_is_what_directions_apply_the_inverse_root_of) {
  Replay replay(torch::zeros({4, 5}, double_options()), psgd_lra_estimator({.rank = 3}),
                {.learning_rate = 1, .momentum = {.beta = 0}});
  const auto gradients = some_gradients({4, 5}, 4);
  for (size_t t = 0; t < 3; ++t) replay.step(gradients[t]);
  const at::Tensor before = replay.parameter.detach().clone();
  const at::Tensor u = before - replay.step(gradients[3]);
  const at::Tensor s = materialize(*replay.optimizer.snapshot("w").front());
  const auto [values, vectors] = torch::linalg_eigh(s);
  BOOST_TEST(close(u.flatten(),
                   vectors.matmul(values.rsqrt() * vectors.t().matmul(gradients[3].flatten())),
                   {1e-9, 0}));
}

BOOST_AUTO_TEST_CASE(large_snapshots_are_products) {
  Replay replay(torch::zeros({40, 50}, double_options()), psgd_lra_estimator({.rank = 3}),
                {.learning_rate = 1, .momentum = {.beta = 0}});
  const auto gradients = some_gradients({40, 50}, 3);
  for (const at::Tensor& g : gradients) replay.step(g);
  const OperatorPtr s = replay.optimizer.snapshot("w").front();
  // P S P = I
  const at::Tensor x = normal({2000}, 3);
  Replay twice(torch::zeros({40, 50}, double_options()),
               psgd_lra_estimator({.rank = 3, .refresh_interval = 1000}),
               {.learning_rate = 1, .momentum = {.beta = 0}});
  twice.optimizer.load(replay.optimizer.save());
  const auto apply_p = [&](const at::Tensor& y) {
    const at::Tensor before = twice.parameter.detach().clone();
    return (before - twice.step(y.view({40, 50}))).flatten();
  };
  BOOST_TEST(close(apply_p(s->apply(apply_p(x))), x, {1e-8, 0}));
}

BOOST_AUTO_TEST_CASE(state_resumes_bit_for_bit) {
  for (const Shape& shape : {Shape{7, 5}, Shape{6}, Shape{2, 3, 2, 2}}) {
    BOOST_TEST(
        resumes(normal(shape, 7),
                psgd_lra_estimator({.rank = 3, .refresh_interval = 2, .noise = 1e-4, .seed = 3}),
                published_psgd(), some_gradients(shape, 9), 5));
  }
}

BOOST_AUTO_TEST_CASE(seeds_choose_the_start) {
  const auto first = [](uint64_t seed) {
    Replay replay(normal({4, 5}, 7), psgd_lra_estimator({.rank = 2, .seed = seed}),
                  published_psgd());
    return replay.step(some_gradients({4, 5}, 1).front());
  };
  BOOST_TEST(first(1).equal(first(1)));
  BOOST_TEST(!first(1).equal(first(2)));
}

BOOST_AUTO_TEST_CASE(memory_is_two_vectors_for_each_rank_and_one) {
  Replay replay(normal({4, 5}, 7), psgd_lra_estimator({.rank = 2}), published_psgd());
  BOOST_TEST(replay.optimizer.state_bytes() == 8 * (20 + 5 * 20));
  Replay capped(normal({2, 2}, 7), psgd_lra_estimator({.rank = 9}), published_psgd());
  BOOST_TEST(capped.optimizer.state_bytes() == 8 * (4 + 9 * 4));
  BOOST_TEST(std::isfinite(capped.step(normal({2, 2}, 3)).norm().item<double>()));
}

BOOST_AUTO_TEST_CASE(wrong_options_are_named) {
  BOOST_CHECK_THROW(psgd_lra_estimator({.rank = -1}), OptionError);
  BOOST_CHECK_THROW(psgd_lra_estimator({.preconditioner_rate = 1}), OptionError);
  BOOST_CHECK_THROW(psgd_lra_estimator({.noise = -1}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
