// How well covariances are learned from noisy gradients: means over long runs with fixed seeds,
// against figures that do not depend on the program.

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <curvature/core/random.hpp>
#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/preconditioned.hpp>

namespace curvature::testing {
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

}  // namespace

BOOST_AUTO_TEST_SUITE(statistics_test)

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
