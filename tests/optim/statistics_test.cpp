// How well covariances are learned from noisy gradients: means over long runs with fixed seeds,
// against figures that do not depend on the program.

#include <torch/torch.h>

#include <array>
#include <map>

#include <boost/test/unit_test.hpp>

#include <curvature/core/random.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/preconditioned.hpp>

#include "support/tensor_close.hpp"

namespace curvature::testing {

BOOST_AUTO_TEST_SUITE(statistics_test)

namespace {

using namespace optim;

/// Gradients L Z R^T with Z white: their covariance is L L^T (x) R R^T.
class KroneckerGradients {
 public:
  KroneckerGradients(at::Tensor left, at::Tensor right)
      : left_(std::move(left)), right_(std::move(right)) {}

  at::Tensor next() {
    const int64_t m = left_.size(0), n = right_.size(0);
    const at::Tensor white = random_.normal(count_++, m * n).view({m, n});
    return left_.matmul(white).matmul(right_.t());
  }
  at::Tensor covariance() const {
    return at::kron(left_.matmul(left_.t()), right_.matmul(right_.t()));
  }

 private:
  at::Tensor left_, right_;
  RandomSource random_ = RandomSource(11);
  uint64_t count_ = 0;
};

/// An axis with eigenvalues that decay.
at::Tensor root(int64_t size, uint64_t stream) {
  const auto basis =
      std::get<0>(torch::linalg_qr(RandomSource(5).normal(stream, size * size).view({size, size})));
  return basis * torch::linspace(1, 0.2, size, torch::kDouble);
}

struct Learner {
  explicit Learner(const EstimatorFactory& estimator, const Shape& shape,
                   const ViewOptions& view = {})
      : parameter(torch::zeros(shape, torch::kDouble).requires_grad_()),
        optimizer({{"w", parameter}}, estimator, {.learning_rate = 0, .view = view}) {}

  void see(const at::Tensor& gradient) {
    parameter.mutable_grad() = gradient;
    optimizer.step();
  }
  at::Tensor learned() const { return materialize(*optimizer.snapshot("w").front()); }

  at::Tensor parameter;
  Preconditioned optimizer;
};

/// KL(N(0, C) || N(0, S)).
double divergence(const at::Tensor& c, const at::Tensor& s) {
  const at::Tensor ratio = torch::linalg_solve(s, c, /*left=*/true);
  const double d = static_cast<double>(c.size(0));
  return 0.5 * (ratio.trace().item<double>() - d - torch::logdet(ratio).item<double>());
}

/// Its mean over a run, after the start is forgotten.
double mean_divergence(const KlShampooEstimatorOptions& options) {
  KroneckerGradients gradients(root(8, 0), root(32, 1));
  Learner learner(kl_shampoo_estimator(options), {8, 32});
  constexpr int64_t kStart = 200, kSteps = 1200, kBetween = 10;
  double sum = 0;
  for (int64_t t = 1; t <= kSteps; ++t) {
    learner.see(gradients.next());
    if (t > kStart && t % kBetween == 0)
      sum += divergence(gradients.covariance(), learner.learned());
  }
  return sum * kBetween / (kSteps - kStart);
}

KlShampooEstimatorOptions averaging(KlShampooEstimatorOptions options) {
  options.beta2 = 0.95;
  options.debias = false;
  return options;
}

double mean_eigenvalue(const Archive& archive, const std::string& axis) {
  for (const auto& [name, tensor] : archive.tensors) {
    if (name.ends_with("eigenvalues." + axis)) return tensor.mean().item<double>();
  }
  BOOST_FAIL("no eigenvalues of axis " << axis);
  return 0;
}

/// f_q(x) = (x^q - q x + q - 1) / (q (q - 1)) and its limits, and its derivative.
at::Tensor generator(double q, const at::Tensor& x) {
  if (q == 0) return -x.log() + x - 1;
  if (q == 1) return x * x.log() - x + 1;
  return (x.pow(q) - q * x + (q - 1)) / (q * (q - 1));
}

at::Tensor slope(double q, const at::Tensor& x) {
  if (q == 0) return 1 - 1 / x;
  if (q == 1) return x.log();
  return (x.pow(q - 1) - 1) / (q - 1);
}

/// The Bregman divergence of positive numbers from others, summed.
double bregman(double q, const at::Tensor& x, const at::Tensor& y) {
  return (generator(q, x) - generator(q, y) - slope(q, y) * (x - y)).sum().item<double>();
}

/// What the exact form of a divergence makes of samples that come again and again.
at::Tensor fitted(double q, const std::vector<at::Tensor>& samples, double beta, int64_t steps,
                  const ViewOptions& view = {}) {
  KlShampooEstimatorOptions options = exact_kl_shampoo_options();
  options.divergence = q;
  options.beta2 = beta;
  const at::Tensor& first = samples.front();
  Learner learner(kl_shampoo_estimator(options), first.sizes().vec(), view);
  for (int64_t t = 0; t < steps; ++t) learner.see(samples[static_cast<size_t>(t) % samples.size()]);
  return learner.learned();
}

/// |R^-1/2 S R^-1/2 - I|_F^2 / d.
double relative_error(const at::Tensor& s, const at::Tensor& reference) {
  const auto [values, vectors] = torch::linalg_eigh(reference);
  const at::Tensor root = vectors * values.rsqrt();
  const at::Tensor ratio = root.t().matmul(s).matmul(root);
  const int64_t d = s.size(0);
  return (ratio - torch::eye(d, torch::kDouble)).square().sum().item<double>() /
         static_cast<double>(d);
}

/// Of gradients that are sums of three Kronecker-structured parts with eigenvalues i^-p, and a
/// little white noise.
constexpr std::array<double, 3> kPartWeights = {1, 0.3, 0.15}, kPartPowers = {1.8, 1.2, 0.8};
constexpr double kWhite = 0.02;

/// A root of the covariance of a part along one of its two axes.
at::Tensor side_of_part(size_t part, bool is_right, int64_t size) {
  const uint64_t stream = 2 * part + (is_right ? 1 : 0);
  const at::Tensor basis =
      std::get<0>(torch::linalg_qr(RandomSource(7).normal(stream, size * size).view({size, size})));
  return basis * torch::arange(1, size + 1, torch::kDouble).pow(-kPartPowers[part] / 2);
}

std::vector<at::Tensor> mixed_samples(int64_t m, int64_t n, int64_t count, uint64_t seed) {
  const RandomSource random(seed);
  const auto normal = [&](uint64_t stream, int64_t rows, int64_t columns) {
    return random.normal(stream, rows * columns).view({rows, columns});
  };
  std::vector<at::Tensor> samples;
  for (int64_t k = 0; k < count; ++k) {
    const auto stream = static_cast<uint64_t>(4 * k);
    at::Tensor sample = kWhite * normal(stream + 3, m, n);
    for (size_t i = 0; i < 3; ++i) {
      sample = sample + kPartWeights[i] * side_of_part(i, false, m)
                                              .matmul(normal(stream + i, m, n))
                                              .matmul(side_of_part(i, true, n).t());
    }
    samples.push_back(0.1 * sample);
  }
  return samples;
}

/// The population covariance of those samples, scaled to a mean eigenvalue of 1.
at::Tensor mixed_covariance(int64_t m, int64_t n) {
  at::Tensor covariance = kWhite * kWhite * torch::eye(m * n, torch::kDouble);
  for (size_t i = 0; i < 3; ++i) {
    const at::Tensor left = side_of_part(i, false, m), right = side_of_part(i, true, n);
    covariance += kPartWeights[i] * kPartWeights[i] *
                  at::kron(left.matmul(left.t()), right.matmul(right.t()));
  }
  return covariance * (static_cast<double>(m * n) / covariance.trace());
}

/// (z^T x - y)^2 / 2 in the mean over batches of 64 with z ~ N(0, H), y ~ N(0, 1/6), followed in v
/// = H^1/2 x: the excess of the mean loss is |v|^2 / 2.
class StochasticQuadratic {
 public:
  StochasticQuadratic(const at::Tensor& h, double start, const RandomSource& random)
      : random_(random) {
    const auto [values, vectors] = torch::linalg_eigh(h);
    root_ = (vectors * values.sqrt()).matmul(vectors.t());
    v_ = random_.normal(count_++, h.size(0));
    v_ *= start / v_.norm();
  }

  double excess_loss() const { return v_.square().sum().item<double>() / 2; }
  /// `[count, d]`, of as many batches. With z = H^1/2 w and the residuals r = w_b . v - y_b, the
  /// gradient is H^1/2 sum_b r_b w_b / 64. Along v that is known from r; across, the sum is normal
  /// with variance |r|^2, so that w itself need not be drawn.
  at::Tensor gradients(int64_t count) {
    constexpr int64_t kBatch = 64;
    const double norm = v_.norm().item<double>();
    const at::Tensor unit = v_ / norm;
    const at::Tensor along = normal(count, kBatch);
    const at::Tensor residuals = norm * along - std::sqrt(1.0 / 6) * normal(count, kBatch);
    const at::Tensor white = normal(count, v_.size(0));
    const at::Tensor across = white - torch::outer(white.mv(unit), unit);
    const at::Tensor sums = torch::outer((residuals * along).sum(1), unit) +
                            residuals.norm(2, 1, /*keepdim=*/true) * across;
    return sums.matmul(root_) / kBatch;
  }
  void move(const at::Tensor& step) { v_ += root_.mv(step); }

 private:
  at::Tensor normal(int64_t rows, int64_t columns) {
    return random_.normal(count_++, rows * columns).view({rows, columns});
  }

  RandomSource random_;
  uint64_t count_ = 0;
  at::Tensor root_, v_;
};

/// The excess loss at which x <- x - 0.002 S^-1/2 g stays, S fitted to 40 gradients of its own in
/// every step: the mean over the last of `steps`, from a start that is near enough for the first
/// `kStart` to be the way there.
double floor_of(double q, int64_t steps) {
  constexpr int64_t m = 16, n = 24, kSamples = 40, kSweeps = 8, kStart = 120;
  StochasticQuadratic quadratic(mixed_covariance(m, n), 0.3, RandomSource(1));
  // Samples along an axis that is an identity: one update sees all of them.
  KlShampooEstimatorOptions options = exact_kl_shampoo_options();
  options.divergence = q;
  options.beta2 = 0.5;
  options.debias = false;
  Learner learner(kl_shampoo_estimator(options), {kSamples, m, n},
                  {.shape = ShapePolicy::kTensor, .max_dense = n, .beyond = ModeKind::kIdentity});
  double sum = 0;
  for (int64_t step = 0; step < steps; ++step) {
    const at::Tensor samples = quadratic.gradients(kSamples).view({kSamples, m, n});
    for (int64_t sweep = 0; sweep < kSweeps; ++sweep) learner.see(samples);
    at::Tensor gradient = torch::zeros({kSamples, m * n}, torch::kDouble);
    gradient[0] = quadratic.gradients(1)[0];
    const at::Tensor direction =
        pow(learner.optimizer.snapshot("w").front(), -0.5)->apply(gradient.flatten());
    quadratic.move(-0.002 * direction.narrow(0, 0, m * n));
    if (step >= kStart) sum += quadratic.excess_loss();
  }
  return sum / static_cast<double>(steps - kStart);
}

}  // namespace

/// Along a fixed basis only the squares of entries count, so that one sample shown again and again
/// leads to the best product a_i b_j for V = G o G: by Sinkhorn's scaling for q = 0, row and
/// column sums for q = 1, singular vectors for q = 2.
BOOST_AUTO_TEST_CASE(eigenvalues_are_the_best_product_in_each_divergence) {
  const RandomSource random(2);
  const at::Tensor v = random.normal(0, 20).abs().add(0.1).view({4, 5});
  const ViewOptions diagonals{.max_dense = 1, .beyond = ModeKind::kDiagonal};
  for (const double q : {0.0, 0.5, 1.0, 2.0}) {
    const at::Tensor best = fitted(q, {v.sqrt()}, 0.5, 300, diagonals).diagonal().view({4, 5});
    const double least = bregman(q, v, best);
    for (uint64_t k = 1; k <= 100; ++k) {
      const at::Tensor rows = random.normal(2 * k, 4).mul(0.01).exp().unsqueeze(1);
      const at::Tensor columns = random.normal(2 * k + 1, 5).mul(0.01).exp();
      BOOST_TEST(bregman(q, v, best * rows * columns) > least);
    }
    if (q == 0) {
      BOOST_TEST(close((v / best).mean(1), torch::ones(4, torch::kDouble)));
      BOOST_TEST(close((v / best).mean(0), torch::ones(5, torch::kDouble)));
    }
    if (q == 1) BOOST_TEST(close(best, torch::outer(v.sum(1), v.sum(0)) / v.sum()));
    if (q == 2) {
      const auto [left, singular, right] = torch::linalg_svd(v, /*full_matrices=*/false);
      BOOST_TEST(close(best, singular[0] * torch::outer(left.select(1, 0), right[0])));
    }
  }
}

/// The experiment of Liu et al. 2026, appendix D, with fewer samples: how far fits to 40 are from
/// that to very many. The order is the published one; KL has less than half of von Neumann's error.
BOOST_AUTO_TEST_CASE(small_q_needs_the_fewest_samples) {
  constexpr int64_t m = 16, n = 24, kMany = 2500;
  const std::vector<at::Tensor> many = mixed_samples(m, n, kMany, 1);
  std::map<double, double> error;
  for (const double q : {0.0, 0.5, 1.0, 2.0}) {
    const at::Tensor reference = fitted(q, many, 0.999, kMany);
    for (uint64_t subset = 0; subset < 3; ++subset) {
      const std::vector<at::Tensor> few(many.begin() + 40 * static_cast<int64_t>(subset),
                                        many.begin() + 40 * static_cast<int64_t>(subset + 1));
      error[q] += relative_error(fitted(q, few, 0.99, 600), reference) / 3;
    }
  }
  BOOST_TEST_MESSAGE("errors " << error[0] << " " << error[0.5] << " " << error[1] << " "
                               << error[2]);
  BOOST_TEST(error[0] < error[0.5]);
  BOOST_TEST(error[0.5] < error[1]);
  BOOST_TEST(error[1] < error[2]);
  BOOST_TEST(error[0] < 0.5 * error[1]);
}

/// The stochastic quadratic of Liu et al. 2026, appendix D.3, with other bases. Published: 0.00844
/// for KL. Measured elsewhere, with 1000 steps from |v| = 2: 0.00863, 0.00846, 0.00949 and 0.0355
/// for q = 0, 1/2, 1, 2. Here: 0.0088, 0.0087, 0.0099 and 0.041; other seeds differ by 1 %, for q =
/// 2, whose steps are far too long now and then, by 6 %.
BOOST_AUTO_TEST_CASE(small_q_ends_lowest_on_a_stochastic_quadratic) {
  std::map<double, double> floor;
  for (const double q : {0.0, 0.5, 1.0, 2.0}) floor[q] = floor_of(q, 480);
  BOOST_TEST_MESSAGE("floors " << floor[0] << " " << floor[0.5] << " " << floor[1] << " "
                               << floor[2]);
  BOOST_TEST(std::abs(floor[0] - 0.00863) < 0.06 * 0.00863);
  BOOST_TEST(std::abs(floor[0.5] - 0.00846) < 0.06 * 0.00846);
  BOOST_TEST(std::abs(floor[1] - 0.00949) < 0.1 * 0.00949);
  BOOST_TEST(std::abs(floor[0] - floor[0.5]) < 0.03 * floor[0]);
  BOOST_TEST(floor[0] < 0.92 * floor[1]);
  BOOST_TEST(floor[1] < floor[2] / 3);
}

/// Measured elsewhere for 8 x 32 and beta2 = 0.95: 7.4 (the exact form, whatever the covariance is,
/// as it is equivariant), 4.6 with eigenvalues of their own, 13.7 for the von Neumann divergence.
/// The means here have standard errors of 2 %.
BOOST_AUTO_TEST_CASE(averages_of_eigenvalues_lose_least) {
  const double exact = mean_divergence(averaging(exact_kl_shampoo_options()));
  const double running = mean_divergence(averaging({}));
  KlShampooEstimatorOptions von_neumann = averaging(exact_kl_shampoo_options());
  von_neumann.divergence = 1;
  const double other = mean_divergence(von_neumann);
  BOOST_TEST(std::abs(exact - 7.4) < 0.1 * 7.4);
  BOOST_TEST(running < 0.8 * exact);
  BOOST_TEST(other > 1.3 * exact);
  BOOST_TEST_MESSAGE("exact " << exact << ", running " << running << ", von Neumann " << other);
}

/// E|L^-1/2 S L^-1/2 - I|_F^2 = (m + 1) m / (N n) for the mean over N samples, whose place for a
/// moving average (1 + beta) / (1 - beta) takes. The mean of 250 nearly independent values, each
/// with a standard deviation below half of it, is within 10 % at 3 standard errors.
BOOST_AUTO_TEST_CASE(the_error_of_a_known_axis_is_that_of_a_wishart_matrix) {
  constexpr int64_t m = 4, n = 6;
  KroneckerGradients gradients(torch::eye(m, torch::kDouble), torch::eye(n, torch::kDouble));
  KlShampooEstimatorOptions options = averaging(exact_kl_shampoo_options());
  Learner learner(kl_shampoo_estimator(options), {m, n},
                  {.max_dense = m, .beyond = ModeKind::kIdentity});
  constexpr int64_t kStart = 200, kBetween = 40, kValues = 250;
  double sum = 0;
  for (int64_t t = 1; t <= kStart + kBetween * kValues; ++t) {
    learner.see(gradients.next());
    if (t <= kStart || t % kBetween != 0) continue;
    const at::Tensor s = learner.learned();  // S (x) I
    const at::Tensor error = s - torch::eye(m * n, torch::kDouble);
    sum += error.square().sum().item<double>() / n;
  }
  const double expected = (m + 1.0) * m / n * (1 - options.beta2) / (1 + options.beta2);
  BOOST_TEST(std::abs(sum / kValues - expected) < 0.1 * expected);
}

/// Nothing holds the ratio of two factors but `balance`; noise drives it where they differ in size:
/// measured elsewhere, log tr A moves by 2.4e-3 a step.
BOOST_AUTO_TEST_CASE(balance_stops_a_drift_that_operators_do_not_see) {
  KlShampooEstimatorOptions options = averaging(exact_kl_shampoo_options());
  Learner balanced(kl_shampoo_estimator(options), {8, 32});
  options.balance = false;
  Learner drifting(kl_shampoo_estimator(options), {8, 32});
  KroneckerGradients gradients(root(8, 0), root(32, 1));
  const auto log_ratio = [](const Learner& learner) {
    const Archive state = learner.optimizer.save();
    return std::log(mean_eigenvalue(state, "0") / mean_eigenvalue(state, "1"));
  };
  constexpr int64_t kSteps = 1000;
  double start = 0;
  for (int64_t t = 1; t <= kSteps; ++t) {
    const at::Tensor gradient = gradients.next();
    balanced.see(gradient);
    drifting.see(gradient);
    if (t == 100) start = log_ratio(drifting);
  }
  BOOST_TEST(std::abs(log_ratio(balanced)) < 1e-10);
  const double slope = std::abs(log_ratio(drifting) - start) / 2 / (kSteps - 100);
  BOOST_TEST(std::abs(slope - 2.4e-3) < 0.15 * 2.4e-3);
  const at::Tensor a = balanced.learned(), b = drifting.learned();
  BOOST_TEST((a - b).norm().item<double>() < 1e-9 * a.norm().item<double>());
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace curvature::testing
