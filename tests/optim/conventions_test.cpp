// Trajectories against the published formulas, written out with explicit unfoldings and
// decompositions of the factors in the parameter's own coordinates.

#include <torch/torch.h>

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/shampoo_estimator.hpp>
#include <curvature/optim/soap_estimator.hpp>

#include "optim/reference.hpp"
#include "support/tensor_close.hpp"

namespace curvature::testing {

BOOST_AUTO_TEST_SUITE(conventions_test)

namespace {

namespace data = boost::unit_test::data;
using optim::PreconditionedOptions;
using Matrices = std::vector<at::Tensor>;

constexpr double kRate = 0.02, kBeta1 = 0.9, kBeta2 = 0.95, kEpsilon = 1e-8, kDecay = 0.1;
constexpr int64_t kSteps = 12;

const std::vector<Shape> kShapes = {{4, 3}, {2, 7}, {6, 6}, {3, 2, 4}, {2, 3, 2, 2}};

const std::vector<Shape> kVectors = {{5}, {4, 3}, {}};

PreconditionedOptions shell() {
  return {.learning_rate = kRate,
          .momentum = {.beta = kBeta1},
          .weight_decay = {.decay = kDecay},
          .view = {.shape = optim::ShapePolicy::kTensor}};
}

struct Case {
  explicit Case(const Shape& shape)
      : start(random_parameter(shape)), gradients(random_gradients(shape, kSteps)) {}

  at::Tensor actual(const optim::EstimatorFactory& estimator,
                    const PreconditionedOptions& options) const {
    return trajectory(estimator, options, start, gradients);
  }
  at::Tensor expected(
      const std::function<at::Tensor(int64_t, const at::Tensor&, const at::Tensor&)>& u) const {
    return shell_trajectory(start, gradients, kRate, kBeta1, kDecay, u);
  }

  at::Tensor start;
  std::vector<at::Tensor> gradients;
};

constexpr Tolerance kClose = {.relative = 0, .absolute = 1e-10};

double correction(double beta, int64_t t) { return 1 - std::pow(beta, t); }

/// Adam's direction for a second moment that it keeps.
at::Tensor adam(at::Tensor& v, int64_t t, const at::Tensor& g, const at::Tensor& m) {
  if (!v.defined()) v = at::zeros_like(g);
  v = kBeta2 * v + (1 - kBeta2) * g * g;
  return m / ((v / correction(kBeta2, t)).sqrt() + kEpsilon);
}

}  // namespace

BOOST_DATA_TEST_CASE(adamw, data::xrange(kVectors.size()), index) {
  const Shape& shape = kVectors[index];
  const Case c(shape);
  at::Tensor v;

  const at::Tensor expected =
      c.expected([&](int64_t t, const auto& g, const auto& m) { return adam(v, t, g, m); });

  BOOST_TEST(close(c.actual(optim::adam_estimator(), shell()), expected, kClose));
}

/// The same without the kernel that steps all parameters at once.
BOOST_DATA_TEST_CASE(adamw_in_parts, data::xrange(kShapes.size()), index) {
  const Shape& shape = kShapes[index];
  const Case c(shape);
  PreconditionedOptions options = shell();
  options.clip.entry = 1e6;
  at::Tensor v;

  const at::Tensor expected =
      c.expected([&](int64_t t, const auto& g, const auto& m) { return adam(v, t, g, m); });

  BOOST_TEST(close(c.actual(optim::adam_estimator(), options), expected, kClose));
}

BOOST_DATA_TEST_CASE(shampoo,
                     data::xrange(kShapes.size()) * data::make({0.0, 0.5}) *
                         data::make({false, true}) * data::make({false, true}),
                     index, power, sums, grafts) {
  const Shape& shape = kShapes[index];
  const Case c(shape);
  const auto k = static_cast<int64_t>(shape.size());
  const double p = power == 0 ? 1.0 / (2.0 * static_cast<double>(k)) : power;
  const double factor_epsilon = 1e-4;
  const bool scales_trace = power == 0.5;
  const int64_t start = 3, interval = 4;
  optim::ShampooEstimatorOptions options = {.factor_epsilon = factor_epsilon,
                                            .accumulate_sum = sums,
                                            .trace_scaling = scales_trace,
                                            .refresh = {.interval = interval, .start = start}};
  if (power != 0) options.exponent = power;
  PreconditionedOptions shell_options = shell();
  if (grafts) shell_options.graft = {.kind = optim::Graft::kAdam, .start = start};

  Matrices s(k), x(k);
  for (int64_t i = 0; i < k; ++i) {
    s[i] = at::zeros({shape[i], shape[i]}, at::kDouble);
    x[i] = at::eye(shape[i], at::kDouble);
  }
  at::Tensor v;
  double scale = 1;
  const at::Tensor expected = c.expected([&](int64_t t, const auto& g, const auto& m) {
    for (int64_t i = 0; i < k; ++i) {
      const at::Tensor gram = unfolded(g, i).matmul(unfolded(g, i).t());
      s[i] = sums ? s[i] + gram : kBeta2 * s[i] + (1 - kBeta2) * gram;
    }
    if (t >= start && (t - start) % interval == 0) {
      for (int64_t i = 0; i < k; ++i) {
        const at::Tensor hat = sums ? s[i] : s[i] / correction(kBeta2, t);
        x[i] = symmetric_power(hat + factor_epsilon * at::eye(shape[i], at::kDouble), -p);
        if (scales_trace) {
          scale = std::pow(hat.trace().item<double>(), (static_cast<double>(k) - 1) / 2);
        }
      }
    }
    const at::Tensor u = scale * multiplied(m, x);
    if (!grafts) return u;
    const at::Tensor base = adam(v, t, g, m);
    return t < start ? base : u * (base.norm() / (u.norm() + 1e-16));
  });

  BOOST_TEST(close(c.actual(optim::shampoo_estimator(options), shell_options), expected, kClose));
}

BOOST_DATA_TEST_CASE(kl_shampoo_exact,
                     data::xrange(kShapes.size()) * data::make({false, true}) *
                         data::make({0.0, 1e-3}) * data::make({false, true}),
                     index, update_first, damping, debias) {
  const Shape& shape = kShapes[index];
  const Case c(shape);
  const auto k = static_cast<int64_t>(shape.size());
  optim::KlShampooEstimatorOptions options = optim::exact_kl_shampoo_options();
  options.damping = damping;
  options.debias = debias;
  options.order =
      update_first ? optim::UpdateOrder::kUpdateFirst : optim::UpdateOrder::kPreconditionFirst;

  Matrices s(k);
  const auto update = [&](int64_t t, const at::Tensor& g) {
    if (t == 1) {
      const double scale = std::pow((g * g).mean().item<double>(), 1.0 / static_cast<double>(k));
      for (int64_t i = 0; i < k; ++i) s[i] = scale * at::eye(shape[i], at::kDouble);
      return;
    }
    const double b = debias ? 1 - (1 - kBeta2) / correction(kBeta2, t) : kBeta2;
    Matrices inverse(k), next(k);
    for (int64_t i = 0; i < k; ++i) inverse[i] = at::linalg_inv(s[i]);
    double log_mean = 0;
    for (int64_t i = 0; i < k; ++i) {
      at::Tensor r = unfolded(multiplied(g, inverse, i), i).matmul(unfolded(g, i).t()) /
                     static_cast<double>(g.numel() / shape[i]);
      double shift = damping;
      for (int64_t j = 0; j < k; ++j) {
        if (j != i) shift *= inverse[j].trace().item<double>() / static_cast<double>(shape[j]);
      }
      r = r + shift * at::eye(shape[i], at::kDouble);
      next[i] = b * s[i] + (1 - b) * (r + r.t()) / 2;
      log_mean += std::log(next[i].trace().item<double>() / static_cast<double>(shape[i])) /
                  static_cast<double>(k);
    }
    for (int64_t i = 0; i < k; ++i) {
      s[i] = next[i] * std::exp(log_mean) /
             (next[i].trace().item<double>() / static_cast<double>(shape[i]));
    }
  };
  const at::Tensor expected = c.expected([&](int64_t t, const auto& g, const auto& m) {
    if (update_first || t == 1) update(t, g);
    Matrices q(k), l(k);
    for (int64_t i = 0; i < k; ++i) std::tie(l[i], q[i]) = at::linalg_eigh(s[i]);
    const at::Tensor u =
        multiplied(multiplied(m, transposed(q)) / (entries(l).sqrt() + kEpsilon), q);
    if (!update_first && t > 1) update(t, g);
    return u;
  });

  BOOST_TEST(close(c.actual(optim::kl_shampoo_estimator(options), shell()), expected, kClose));
}

/// KL-Shampoo's running form, and KL-SOAP, which has its own second moment along the basis.
BOOST_DATA_TEST_CASE(kl_shampoo_running,
                     data::xrange(kShapes.size()) * data::make({false, true}) *
                         data::make({0.0, 1e-3}) * data::make({false, true}),
                     index, update_first, damping, soap) {
  if (soap && update_first) return;  // has one order
  const Shape& shape = kShapes[index];
  const Case c(shape);
  const auto k = static_cast<int64_t>(shape.size());
  const int64_t interval = 3, warm = 4;
  optim::KlShampooEstimatorOptions options =
      soap ? optim::kl_soap_options() : optim::KlShampooEstimatorOptions();
  options.damping = damping;
  options.refresh = {.interval = interval, .start = interval, .warm = warm};
  if (update_first) options.order = optim::UpdateOrder::kUpdateFirst;

  Matrices s(k), q(k), l(k);
  at::Tensor v = at::zeros(shape, at::kDouble);
  const auto update = [&](int64_t t, const at::Tensor& g) {
    if (t == 1) {
      const double scale = std::pow((g * g).mean().item<double>(), 1.0 / static_cast<double>(k));
      for (int64_t i = 0; i < k; ++i) {
        q[i] = at::eye(shape[i], at::kDouble);
        s[i] = scale * q[i];
        l[i] = at::full({shape[i]}, scale, at::kDouble);
      }
      return;
    }
    const double b = 1 - (1 - kBeta2) / correction(kBeta2, t);
    const Matrices old_q = q, old_l = l;
    const at::Tensor p = multiplied(g, transposed(old_q));
    double log_mean = 0;
    for (int64_t i = 0; i < k; ++i) {
      Matrices whiten(k);
      double shift = damping;
      Matrices others;
      for (int64_t j = 0; j < k; ++j) {
        whiten[j] = old_l[j].pow(-0.5).diag().matmul(old_q[j].t());
        if (j != i) shift *= old_l[j].reciprocal().mean().item<double>();
        others.push_back(j == i ? at::ones_like(old_l[j]) : old_l[j]);
      }
      const at::Tensor y = unfolded(multiplied(g, whiten, i), i);
      const double size = static_cast<double>(g.numel() / shape[i]);
      s[i] = b * s[i] + (1 - b) / size * y.matmul(y.t());
      const at::Tensor x = unfolded(p * p / entries(others), i).mean(1);
      l[i] = b * l[i] + (1 - b) * (x + shift);
      log_mean += std::log(l[i].mean().item<double>()) / static_cast<double>(k);
    }
    for (int64_t i = 0; i < k; ++i) {
      const double balance = std::exp(log_mean) / l[i].mean().item<double>();
      l[i] = l[i] * balance;
      s[i] = s[i] * balance;
      if (t % interval == 0 || t <= warm) q[i] = std::get<0>(at::linalg_qr(s[i].matmul(q[i])));
    }
  };
  const at::Tensor expected = c.expected([&](int64_t t, const auto& g, const auto& m) {
    if (update_first || t == 1) update(t, g);
    at::Tensor root = entries(l).sqrt();
    if (soap) {
      const at::Tensor p = multiplied(g, transposed(q));
      v = kBeta2 * v + (1 - kBeta2) * p * p;
      root = (v / correction(kBeta2, t)).sqrt();
    }
    const at::Tensor u = multiplied(multiplied(m, transposed(q)) / (root + kEpsilon), q);
    if (!update_first && t > 1) update(t, g);
    return u;
  });

  BOOST_TEST(close(c.actual(optim::kl_shampoo_estimator(options), shell()), expected, kClose));
}

/// SOAP and EShampoo in all their variants.
BOOST_DATA_TEST_CASE(soap,
                     data::xrange(kShapes.size()) * data::make({false, true}) *
                         data::make({false, true}) * data::make({false, true}),
                     index, update_first, eigh, mixes) {
  const Shape& shape = kShapes[index];
  const Case c(shape);
  const auto k = static_cast<int64_t>(shape.size());
  const int64_t interval = 2, start = 5;  // every factor has full rank by then
  const optim::SoapEstimatorOptions options = {
      .shampoo_beta = 0.9,
      .order =
          update_first ? optim::UpdateOrder::kUpdateFirst : optim::UpdateOrder::kPreconditionFirst,
      .basis_method = eigh ? optim::BasisMethod::kEigh : optim::BasisMethod::kQr,
      .transport = mixes ? optim::Transport::kMix : optim::Transport::kKeep,
      .refresh = {.interval = interval, .start = start}};

  Matrices s(k), q(k);
  for (int64_t i = 0; i < k; ++i) {
    s[i] = at::zeros({shape[i], shape[i]}, at::kDouble);
    q[i] = at::eye(shape[i], at::kDouble);
  }
  at::Tensor v = at::zeros(shape, at::kDouble);
  const auto basis = [&](int64_t t, const at::Tensor& g) {
    for (int64_t i = 0; i < k; ++i) {
      s[i] = 0.9 * s[i] + 0.1 * unfolded(g, i).matmul(unfolded(g, i).t());
      if (t < start || (t - start) % interval != 0) continue;
      at::Tensor old = q[i];
      if (eigh || t == start) {
        q[i] = std::get<1>(at::linalg_eigh(s[i])).flip(1);
      } else {
        const at::Tensor order =
            old.t().matmul(s[i]).matmul(old).diagonal().argsort(0, /*descending=*/true);
        old = old.index_select(1, order);
        v = v.index_select(i, order);
        q[i] = std::get<0>(at::linalg_qr(s[i].matmul(old)));
      }
      if (mixes) {
        const at::Tensor rotation = old.t().matmul(q[i]);
        v = at::tensordot((rotation * rotation).t(), v, {1}, {i}).movedim(0, i);
      }
    }
  };
  const at::Tensor expected = c.expected([&](int64_t t, const auto& g, const auto& m) {
    if (update_first) basis(t, g);
    const at::Tensor p = multiplied(g, transposed(q));
    v = kBeta2 * v + (1 - kBeta2) * p * p;
    const at::Tensor u = multiplied(
        multiplied(m, transposed(q)) / ((v / correction(kBeta2, t)).sqrt() + kEpsilon), q);
    if (!update_first) basis(t, g);
    return u;
  });

  BOOST_TEST(close(c.actual(optim::soap_estimator(options), shell()), expected, kClose));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace curvature::testing
