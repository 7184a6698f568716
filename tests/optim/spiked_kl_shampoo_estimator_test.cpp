// KL-Shampoo with few eigenpairs: as KL-Shampoo where nothing is dropped, by its formulas with
// matrices where something is, and against a covariance that has spikes.
#include <curvature/core/error.hpp>
#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/spiked_kl_shampoo_estimator.hpp>

#include "optim/reference.hpp"

BOOST_AUTO_TEST_SUITE(spiked_kl_shampoo_estimator_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

PreconditionedOptions shell(double rate = 0.01) {
  return {.learning_rate = rate,
          .view = {.shape = ShapePolicy::kTensor, .vectors = VectorPolicy::kFull}};
}

at::Tensor power(const at::Tensor& a, double p) {
  const auto [values, vectors] = torch::linalg_eigh(a);
  return vectors.matmul(values.pow(p).diag()).matmul(vectors.t());
}

at::Tensor operator_of(const Preconditioned& optimizer) {
  return materialize(*optimizer.snapshot("w").front());
}

/// A spiked matrix: `count` eigenvalues from `top` down to half of it, the others 1.
at::Tensor spiked(int64_t n, int64_t count, double top, uint64_t seed) {
  const at::Tensor u = std::get<0>(torch::linalg_qr(normal({n, count}, seed)));
  const at::Tensor s = torch::linspace(top, top / 2, count, double_options());
  return u.matmul((s - 1).diag()).matmul(u.t()) + torch::eye(n, double_options());
}

/// The docstring with d x d matrices.
struct Reference {
  at::Tensor u, y, s;
  double mu;

  at::Tensor matrix() const {
    const int64_t d = u.size(0);
    return u.matmul((s - mu).diag()).matmul(u.t()) + mu * torch::eye(d, u.options());
  }
  double mean() const {
    return (s.sum().item<double>() + double(u.size(0) - u.size(1)) * mu) / double(u.size(0));
  }
  void average(const at::Tensor& a, double b) {
    const at::Tensor inside = u.t().matmul(a).matmul(u).diagonal();
    s = b * s + (1 - b) * inside;
    mu = b * mu +
         (1 - b) * (a.trace() - inside.sum()).item<double>() / double(u.size(0) - u.size(1));
    y = b * y + (1 - b) * a.matmul(u);
  }
  void scale(double by) { s = s * by, y = y * by, mu *= by; }
  void turn() {
    const at::Tensor eye = torch::eye(u.size(0), u.options());
    const at::Tensor inside = u.matmul(u.t()), outside = eye - inside;
    const at::Tensor known = y.matmul(u.t());  // S inside
    const at::Tensor whole = known + outside.matmul(known).t() + mu * outside;
    u = std::get<0>(torch::linalg_qr(y));
    y = whole.matmul(u);
  }
};

}  // namespace

BOOST_AUTO_TEST_CASE(with_all_eigenpairs_it_is_kl_shampoo) {
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{5, 4}, std::vector<int64_t>{6}, std::vector<int64_t>{3, 4, 2}}) {
    const RefreshOptions refresh{.interval = 3, .start = 3, .warm = 4};
    for (const bool plain : {false, true}) {
      Replay spikes(normal(shape, 7),
                    spiked_kl_shampoo_estimator(
                        {.rank = 8, .debias = !plain, .balance = !plain, .refresh = refresh}),
                    shell());
      Replay all(normal(shape, 7),
                 kl_shampoo_estimator(
                     {.epsilon = 0, .debias = !plain, .balance = !plain, .refresh = refresh}),
                 shell());
      for (const at::Tensor& g : some_gradients(shape, 20)) {
        const at::Tensor expected = all.step(g);
        BOOST_TEST(close(spikes.step(g), expected, {1e-9, 0}));
      }
      BOOST_TEST(close(operator_of(spikes.optimizer), operator_of(all.optimizer), {1e-8, 0}));
    }
  }
}

BOOST_AUTO_TEST_CASE(steps_are_those_of_its_formulas) {
  constexpr double kBeta = 0.9, kRate = 0.01;
  const std::vector<int64_t> shape = {6, 5};
  const at::Tensor start = normal(shape, 7);
  Replay replay(start,
                spiked_kl_shampoo_estimator({.rank = 2,
                                             .beta2 = kBeta,
                                             .debias = false,
                                             .refresh = {.interval = 3, .start = 3, .warm = 2}}),
                shell(kRate));
  const auto gradients = some_gradients(shape, 14);
  replay.step(gradients[0]);
  // From here on by the formulas: the start is random.
  const Archive archive = replay.optimizer.save();
  std::vector<Reference> factors;
  const double scale = std::sqrt(gradients[0].square().mean().item<double>());
  for (const std::string axis : {"0", "1"}) {
    const at::Tensor u = archive.tensors.at("w/basis." + axis);
    BOOST_TEST(close(u.t().matmul(u), torch::eye(2, double_options())));
    factors.push_back({u, scale * u, torch::full({2}, scale, double_options()), scale});
  }
  at::Tensor theta = replay.parameter.detach().clone(), m = 0.1 * gradients[0];
  for (size_t t = 2; t <= gradients.size(); ++t) {
    const at::Tensor& g = gradients[t - 1];
    m = 0.9 * m + 0.1 * g;
    const at::Tensor a = factors[0].matrix(), b = factors[1].matrix();
    const at::Tensor u = power(a, -0.5).matmul(m).matmul(power(b, -0.5));
    theta = theta - kRate / (1 - std::pow(0.9, double(t))) * u;
    factors[0].average(g.matmul(torch::linalg_inv(b)).matmul(g.t()) / 5, kBeta);
    factors[1].average(g.t().matmul(torch::linalg_inv(a)).matmul(g) / 6, kBeta);
    const double mean = std::sqrt(factors[0].mean() * factors[1].mean());
    for (Reference& factor : factors) factor.scale(mean / factor.mean());
    if (t <= 2 || t % 3 == 0) {
      for (Reference& factor : factors) factor.turn();
    }
    BOOST_TEST(close(replay.step(g), theta, {1e-10, 0}));
    BOOST_TEST(close(operator_of(replay.optimizer),
                     torch::kron(factors[0].matrix(), factors[1].matrix()), {1e-9, 0}));
  }
}

BOOST_AUTO_TEST_CASE(a_spiked_covariance_is_found) {
  constexpr int64_t kRows = 12, kColumns = 8;
  const at::Tensor a = spiked(kRows, 3, 30, 1), b = spiked(kColumns, 2, 12, 2);
  const at::Tensor left = power(a, 0.5), right = power(b, 0.5);
  Replay replay(torch::zeros({kRows, kColumns}, double_options()),
                spiked_kl_shampoo_estimator({.rank = 3, .beta2 = 0.998}), shell(0));
  for (int64_t t = 0; t < 4000; ++t) {
    replay.step(left.matmul(normal({kRows, kColumns}, 1000 + t)).matmul(right));
  }
  // Of the column factor three eigenpairs are kept where two are spikes.
  const at::Tensor found = operator_of(replay.optimizer), expected = torch::kron(a, b);
  BOOST_TEST((found - expected).norm().item<double>() < 0.06 * expected.norm().item<double>());
  const at::Tensor whitened = power(found, -0.5).matmul(expected).matmul(power(found, -0.5));
  const at::Tensor values = torch::linalg_eigvalsh(whitened);
  BOOST_TEST(values[0].item<double>() > 0.8);
  BOOST_TEST(values[-1].item<double>() < 1.25);
}

BOOST_AUTO_TEST_CASE(one_value_for_the_rest_is_the_mean_of_what_is_dropped) {
  // The trace is kept: of 9, 5, 3, 2, 1 two remain, and 2 for the rest.
  const at::Tensor a = torch::diag(torch::tensor({9.0, 5.0, 3.0, 2.0, 1.0}, double_options()));
  Replay replay(torch::zeros({5, 40}, double_options()),
                spiked_kl_shampoo_estimator({.rank = 2, .beta2 = 0.998}), shell(0));
  for (int64_t t = 0; t < 3000; ++t) {
    replay.step(power(a, 0.5).matmul(normal({5, 40}, 1000 + t)));
  }
  const Archive archive = replay.optimizer.save();
  const at::Tensor s = archive.tensors.at("w/eigenvalues.0");
  const double mu = archive.tensors.at("w/rest.0").item<double>();
  BOOST_TEST((s[0] / s[1]).item<double>() == 9.0 / 5, boost::test_tools::tolerance(0.03));
  BOOST_TEST(s[1].item<double>() / mu == 5.0 / 2, boost::test_tools::tolerance(0.03));
}

BOOST_AUTO_TEST_CASE(memory_is_two_times_the_rank_for_each_row) {
  Replay replay(normal({6, 5}, 7), spiked_kl_shampoo_estimator({.rank = 2}), shell());
  BOOST_TEST(replay.optimizer.state_bytes() == 8 * (30 + 2 * 2 * (6 + 5) + 2 * 2));
  for (const at::Tensor& g : some_gradients({6, 5}, 3)) replay.step(g);
  int64_t entries = 0;
  for (const auto& [name, tensor] : replay.optimizer.save().tensors) {
    if (tensor.dim() > 0) entries += tensor.numel();
  }
  BOOST_TEST(8 * entries == replay.optimizer.state_bytes());
}

BOOST_AUTO_TEST_CASE(damping_bounds_eigenvalues_from_below) {
  at::Tensor g = torch::zeros({6, 5}, double_options());
  g[0][0] = 1;
  const auto smallest = [&](double damping) {
    Replay replay(torch::zeros({6, 5}, double_options()),
                  spiked_kl_shampoo_estimator({.rank = 2, .beta2 = 0.5, .damping = damping}),
                  shell(0));
    for (int t = 0; t < 200; ++t) replay.step(g);
    return torch::linalg_eigvalsh(operator_of(replay.optimizer))[0].item<double>();
  };
  BOOST_TEST(smallest(0) < 1e-6);
  BOOST_TEST(smallest(0.01) > 0.005);
}

BOOST_AUTO_TEST_CASE(axes_without_a_matrix) {
  PreconditionedOptions options = shell();
  options.view.max_dense = 4;
  const auto refresh = RefreshOptions{.interval = 2};
  Replay spikes(normal({4, 9}, 7), spiked_kl_shampoo_estimator({.rank = 4, .refresh = refresh}),
                options);
  Replay all(normal({4, 9}, 7), kl_shampoo_estimator({.epsilon = 0, .refresh = refresh}), options);
  for (const at::Tensor& g : some_gradients({4, 9}, 8)) {
    const at::Tensor expected = all.step(g);
    BOOST_TEST(close(spikes.step(g), expected, {1e-9, 0}));
  }
}

BOOST_AUTO_TEST_CASE(state_resumes_bit_for_bit) {
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{5, 4}, std::vector<int64_t>{6}, std::vector<int64_t>{3, 4, 2}}) {
    BOOST_TEST(resumes(normal(shape, 7),
                       spiked_kl_shampoo_estimator({.rank = 2, .refresh = {.interval = 3}}),
                       shell(), some_gradients(shape, 9), 5));
  }
}

BOOST_AUTO_TEST_CASE(large_snapshots_are_products) {
  const std::vector<int64_t> shape = {1030, 2};
  Replay replay(torch::zeros(shape, double_options()), spiked_kl_shampoo_estimator({.rank = 3}),
                shell());
  for (const at::Tensor& g : some_gradients(shape, 3)) replay.step(g);
  const Archive archive = replay.optimizer.save();
  const at::Tensor x = normal({2060}, 3);
  at::Tensor y = x.view({1030, 2});
  const at::Tensor u = archive.tensors.at("w/basis.0"), s = archive.tensors.at("w/eigenvalues.0");
  const double mu = archive.tensors.at("w/rest.0").item<double>();
  y = u.matmul((s - mu).diag()).matmul(u.t().matmul(y)) + mu * y;
  const at::Tensor v = archive.tensors.at("w/basis.1"), l = archive.tensors.at("w/eigenvalues.1");
  y = y.matmul(v).matmul(l.diag()).matmul(v.t());
  BOOST_TEST(close(replay.optimizer.snapshot("w").front()->apply(x), y.flatten(), {1e-10, 0}));
}

BOOST_AUTO_TEST_CASE(wrong_options_are_named) {
  BOOST_CHECK_THROW(spiked_kl_shampoo_estimator({.rank = 0}), OptionError);
  BOOST_CHECK_THROW(spiked_kl_shampoo_estimator({.beta2 = 1}), OptionError);
  BOOST_CHECK_THROW(spiked_kl_shampoo_estimator({.damping = -1}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
