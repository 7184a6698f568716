// SIRF-Shampoo against its formulas spelled out, and against the inverses it learns.
#include <cmath>

#include <curvature/core/error.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/optim/sirf_estimator.hpp>

#include "optim/reference.hpp"

BOOST_AUTO_TEST_SUITE(sirf_estimator_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

/// The paper's update rule.
PreconditionedOptions published(double rate = 0.01, double decay = 0) {
  return {
      .learning_rate = rate,
      .momentum = {.beta = 0.9, .averaging = Averaging::kHeavyBall, .place = MomentumPlace::kAfter},
      .weight_decay = {.decay = decay, .kind = WeightDecay::kDirection},
      .view = {.shape = ShapePolicy::kTensor, .vectors = VectorPolicy::kFull}};
}

/// Optimizer conventions, SIRF-Shampoo; structures as masks of dense matrices.
struct Reference {
  at::Tensor theta;
  SirfOptions options;
  double rate = 0.01, alpha1 = 0.9, weight_decay = 0.1;
  std::vector<at::Tensor> k{}, n{};
  at::Tensor m{};
  int64_t t = 0;

  at::Tensor projected(const at::Tensor& s) const {
    switch (options.structure.kind) {
      case FactorStructure::kDiagonal:
        return s.diagonal().diag();
      case FactorStructure::kLowerTriangular:
        return s.tril() + s.tril(-1);
      default:
        return s;
    }
  }

  void refresh(const at::Tensor& g) {
    at::Tensor x = g;
    for (size_t i = 0; i < k.size(); ++i) x = multiplied(x, k[i].t(), int64_t(i));
    const std::vector<at::Tensor> old = k;
    for (size_t i = 0; i < k.size(); ++i) {
      const auto d = double(g.size(int64_t(i))), others = double(g.numel()) / d;
      const at::Tensor unfolding = unfolded(x, int64_t(i));
      const at::Tensor eye = torch::eye(int64_t(d), g.options());
      double damping = options.damping;
      for (size_t j = 0; j < k.size(); ++j) {
        if (j != i)
          damping *=
              (old[j].t().matmul(old[j])).trace().item<double>() / double(g.size(int64_t(j)));
      }
      const at::Tensor h =
          0.5 * (double(options.batch_size) / others * projected(unfolding.matmul(unfolding.t())) +
                 damping * projected(old[i].t().matmul(old[i])) - eye);
      n[i] = options.alpha2 * n[i] + (1 - options.alpha2) * h;
      const double length = std::max(1.0, n[i].norm().item<double>());
      k[i] = old[i].matmul(eye - options.preconditioner_rate / length * n[i]);
    }
  }

  at::Tensor step(const at::Tensor& g) {
    if (t == 0) {
      for (const int64_t d : g.sizes()) {
        k.push_back(torch::eye(d, g.options()));
        n.push_back(torch::zeros({d, d}, g.options()));
      }
      m = torch::zeros_like(g);
    }
    if (t % options.refresh_interval == 0) refresh(g);
    t += 1;
    std::vector<at::Tensor> p;
    for (const at::Tensor& factor : k) p.push_back(factor.matmul(factor.t()));
    m = alpha1 * m + multiplied(g, p) + weight_decay * theta;
    theta = theta - rate * m;
    return theta;
  }
};

const std::vector<std::vector<int64_t>> kShapes = {{7, 5}, {3, 11}, {4, 3, 5}, {6}, {2, 3, 2, 2}};

}  // namespace

BOOST_AUTO_TEST_CASE(trajectories_are_those_of_the_conventions) {
  for (const FactorStructure kind :
       {FactorStructure::kDense, FactorStructure::kDiagonal, FactorStructure::kLowerTriangular}) {
    for (const auto& shape : kShapes) {
      for (const int64_t interval : {1, 5}) {
        const SirfOptions options{.batch_size = 8,
                                  .preconditioner_rate = 0.1,
                                  .damping = 0.01,
                                  .refresh_interval = interval,
                                  .structure = {.kind = kind}};
        const at::Tensor start = normal(shape, 7);
        Reference reference{.theta = start, .options = options};
        Replay replay(start, sirf_estimator(options), published(0.01, 0.1));
        for (const at::Tensor& g : some_gradients(shape, 12)) {
          const at::Tensor theta = replay.step(g);
          BOOST_TEST(((theta - reference.step(g)).abs().max().item<double>() < 1e-10));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(every_structure_learns_a_scalar_inverse) {
  // One gradient g of one entry: the fixed point is (B g^2 + damping)^-1.
  for (int64_t kind = 0; kind <= int64_t(FactorStructure::kHierarchical); ++kind) {
    Replay replay(torch::zeros({2}, double_options()),
                  sirf_estimator({.batch_size = 5,
                                  .preconditioner_rate = 0.1,
                                  .damping = 0.3,
                                  .structure = {.kind = FactorStructure(kind)}}),
                  published(0));
    // Two entries of alternating sign are uncorrelated and alike.
    for (int64_t t = 0; t < 4000; ++t) {
      replay.step(torch::tensor({0.7, t % 2 == 0 ? 0.7 : -0.7}, double_options()));
    }
    const double s = replay.optimizer.snapshot("w").front()->diagonal()->mean().item<double>();
    BOOST_TEST(s == 5 * 0.49 + 0.3, boost::test_tools::tolerance(0.02));
  }
}

BOOST_AUTO_TEST_CASE(fixed_point_is_stationary) {
  // For two axes: S_1 = B E[G S_2^-1 G^T] / D_1 + damping tr(S_2^-1) / d_2 I, and the other way
  // round: the damped divergence of Gaussians.
  const at::Tensor a =
      torch::tensor({{1.5, 0.4, 0.0}, {0.0, 0.7, 0.2}, {0.0, 0.1, 1.0}}, double_options());
  const at::Tensor b = torch::tensor({{0.8, 0.3}, {-0.2, 1.3}}, double_options());
  Replay replay(torch::zeros({3, 2}, double_options()),
                sirf_estimator({.preconditioner_rate = 2e-3, .damping = 0.1}), published(0));
  for (int64_t t = 0; t < 20000; ++t) {
    const at::Tensor bits = torch::bitwise_and(torch::full({6}, 37 * t % 64, at::kLong),
                                               torch::tensor({1, 2, 4, 8, 16, 32}));
    const at::Tensor z = 2 * bits.gt(0).to(double_options()).view({3, 2}) - 1;
    replay.step(a.matmul(z).matmul(b.t()));
  }
  const Archive archive = replay.optimizer.save();
  const at::Tensor k1 = archive.tensors.at("w/factor_0_0"), k2 = archive.tensors.at("w/factor_1_0");
  const at::Tensor p1 = k1.matmul(k1.t()), p2 = k2.matmul(k2.t());
  const at::Tensor c1 = a.matmul(a.t()), c2 = b.matmul(b.t());
  const at::Tensor s1 =
      c1 * p2.matmul(c2).trace() / 2 + 0.1 * p2.trace() / 2 * torch::eye(3, double_options());
  BOOST_TEST(close(p1.matmul(s1), torch::eye(3, double_options()), {0.02, 0}));
}

BOOST_AUTO_TEST_CASE(snapshot_is_what_directions_apply_the_inverse_of) {
  for (int64_t kind = 0; kind <= int64_t(FactorStructure::kHierarchical); ++kind) {
    PreconditionedOptions options = published(1);
    options.momentum.beta = 0;
    Replay replay(
        torch::zeros({7, 5}, double_options()),
        sirf_estimator(
            {.structure = {.kind = FactorStructure(kind), .block_size = 3, .top = 2, .bottom = 2}}),
        options);
    const auto gradients = some_gradients({7, 5}, 4);
    for (size_t t = 0; t < 3; ++t) replay.step(gradients[t]);
    const at::Tensor before = replay.parameter.detach().clone();
    const at::Tensor u = before - replay.step(gradients[3]);
    const at::Tensor s = materialize(*replay.optimizer.snapshot("w").front());
    BOOST_TEST(close(s.matmul(u.flatten()), gradients[3].flatten(), {1e-9, 0}));
  }
}

BOOST_AUTO_TEST_CASE(state_resumes_bit_for_bit) {
  const auto gradients = some_gradients({7, 5}, 9);
  for (int64_t kind = 0; kind <= int64_t(FactorStructure::kHierarchical); ++kind) {
    for (const at::ScalarType dtype : {at::kDouble, at::kBFloat16}) {
      PreconditionedOptions options = published();
      options.view.dtype = dtype;
      BOOST_TEST(resumes(normal({7, 5}, 7),
                         sirf_estimator({.refresh_interval = 3,
                                         .structure = {.kind = FactorStructure(kind),
                                                       .block_size = 3,
                                                       .top = 2,
                                                       .bottom = 2}}),
                         options, gradients, 5));
    }
  }
}

BOOST_AUTO_TEST_CASE(zero_first_gradient_moves_nothing) {
  const at::Tensor start = normal({4, 5}, 7);
  Replay replay(start, sirf_estimator(), published());
  BOOST_TEST(replay.step(torch::zeros({4, 5}, double_options())).equal(start));
  BOOST_TEST(!replay.step(normal({4, 5}, 8)).equal(start));
}

BOOST_AUTO_TEST_CASE(single_precision_follows_double_precision) {
  const at::Tensor start = normal({6, 5}, 7);
  Replay doubles(start, sirf_estimator(), published());
  Replay floats(start.to(at::kFloat), sirf_estimator(), published());
  for (const at::Tensor& g : some_gradients({6, 5}, 12)) {
    const at::Tensor expected = doubles.step(g);
    BOOST_TEST(close(floats.step(g).to(at::kDouble), expected, {1e-5, 0}));
  }
}

BOOST_AUTO_TEST_CASE(half_the_precision_suffices_where_inverses_need_more) {
  // Gradients whose covariance has condition 1e10: LibTorch has no inverse in bfloat16, and in
  // float32 Cholesky's method breaks down at this damping.
  const at::Tensor mix = std::get<0>(torch::linalg_qr(normal({8, 8}, 3)));
  const at::Tensor root = mix * torch::logspace(0, -5, 8, 10, double_options());
  std::vector<at::Tensor> gradients;
  at::Tensor moment = 1e-9 * torch::eye(8, double_options());
  for (uint64_t t = 0; t < 100; ++t) {
    gradients.push_back(root.matmul(normal({8, 6}, 50 + t)));
    moment += gradients.back().matmul(gradients.back().t()) / 600;
  }
  BOOST_CHECK_THROW(torch::linalg_inv(moment.to(at::kBFloat16)), c10::Error);
  const at::Tensor single = moment.to(at::kFloat);
  const auto [factor, failure] = torch::linalg_cholesky_ex(single);
  const bool breaks =
      failure.item<int64_t>() != 0 ||
      !close(torch::cholesky_inverse(factor).to(at::kDouble), moment.inverse(), {0.5, 0});
  BOOST_TEST(breaks);

  for (int64_t kind = 0; kind <= int64_t(FactorStructure::kHierarchical); ++kind) {
    // With damping, rounding of the largest entries of K does not drown the smallest.
    for (const double damping : {1e-9, 1e-2}) {
      const auto estimator = sirf_estimator(
          {.preconditioner_rate = 0.1,
           .damping = damping,
           .structure = {.kind = FactorStructure(kind), .block_size = 3, .top = 2, .bottom = 2}});
      PreconditionedOptions options = published(0.1);
      Replay doubles(torch::zeros({8, 6}, double_options()), estimator, options);
      options.view.dtype = at::kBFloat16;
      Replay halves(torch::zeros({8, 6}, at::kFloat), estimator, options);
      for (const at::Tensor& g : gradients) {
        doubles.step(g);
        BOOST_TEST(halves.step(g).isfinite().all().item<bool>());
      }
      const auto curvature = [](const Replay& replay) {
        return materialize(*replay.optimizer.snapshot("w").front()).to(at::kDouble);
      };
      // The inverse of a triangular Toeplitz matrix, a power series, multiplies rounding errors.
      const bool is_toeplitz = FactorStructure(kind) == FactorStructure::kLowerToeplitz ||
                               FactorStructure(kind) == FactorStructure::kUpperToeplitz;
      if (damping > 1e-3 && !is_toeplitz) {
        BOOST_TEST(close(curvature(halves), curvature(doubles), {0.1, 0}));
      }
      BOOST_TEST(halves.optimizer.save().tensors.at("w/factor_0_0").scalar_type() == at::kBFloat16);
    }
  }
}

BOOST_AUTO_TEST_CASE(small_steps_are_not_lost_in_bfloat16) {
  // With gradients of zero and no damping H = -I / 2 in every step, so that K grows by a known
  // factor: far less than half of the distance 1/128 to the next number.
  constexpr int64_t kSize = 1024, kSteps = 200;
  constexpr double kRate = 0.02, kGap = 1.0 / 128;
  const double growth = 1 + kRate / std::sqrt(double(kSize));  // |N|_F = kSize^1/2 / 2
  const at::Tensor one = torch::ones({}, double_options());
  BOOST_TEST((one * growth).to(at::kBFloat16).item<double>() == 1.0);

  PreconditionedOptions options = published();
  options.view.dtype = at::kBFloat16;
  const auto factor = [&](uint64_t seed) {
    Replay replay(torch::zeros({kSize}, at::kFloat),
                  sirf_estimator({.preconditioner_rate = kRate,
                                  .alpha2 = 0,
                                  .damping = 0,
                                  .structure = {.kind = FactorStructure::kDiagonal},
                                  .seed = seed}),
                  options);
    for (int64_t t = 0; t < kSteps; ++t) replay.step(torch::zeros({kSize}));
    return replay.optimizer.save().tensors.at("w/factor_0_0");
  };
  // Each step is right in the mean, given the last: E K = growth^T. Rounding up with probability
  // p adds the variance p (1 - p) gap^2, below K (growth - 1) gap. Five standard deviations of the
  // mean of independent entries: confidence 1 - 1e-6.
  double variance = 0;
  for (int64_t t = 0; t < kSteps; ++t) {
    variance += std::pow(growth, double(t)) * (growth - 1) * kGap *
                std::pow(growth, 2.0 * double(kSteps - 1 - t));
  }
  const at::Tensor k = factor(0);
  BOOST_TEST(k.scalar_type() == at::kBFloat16);
  BOOST_TEST((k.lt(2).all().item<bool>()));  // the gap is as said
  const double deviation = k.to(at::kDouble).mean().item<double>() - std::pow(growth, kSteps);
  BOOST_TEST(std::abs(deviation) < 5 * std::sqrt(variance / double(kSize)));

  BOOST_TEST(factor(0).equal(k));
  BOOST_TEST(!factor(1).equal(k));
}

BOOST_AUTO_TEST_CASE(small_rates_learn_in_bfloat16_what_they_learn_in_float64) {
  // Rounded to the nearest most entries would stay where they are.
  const auto curvature = [](at::ScalarType dtype, FactorStructure kind) {
    PreconditionedOptions options = published(0);
    options.view.dtype = dtype;
    Replay replay(
        torch::zeros({6, 4}, double_options()),
        sirf_estimator(
            {.preconditioner_rate = 0.005, .damping = 0.1, .structure = {.kind = kind, .top = 2}}),
        options);
    for (const at::Tensor& g : some_gradients({6, 4}, 1000)) replay.step(g);
    return materialize(*replay.optimizer.snapshot("w").front()).to(at::kDouble);
  };
  for (const FactorStructure kind : {FactorStructure::kDense, FactorStructure::kHierarchical}) {
    BOOST_TEST(close(curvature(at::kBFloat16, kind), curvature(at::kDouble, kind), {0.1, 0}));
  }
}

BOOST_AUTO_TEST_CASE(wrong_options_are_named) {
  BOOST_CHECK_THROW(sirf_estimator({.batch_size = 0}), OptionError);
  BOOST_CHECK_THROW(sirf_estimator({.preconditioner_rate = 1}), OptionError);
  BOOST_CHECK_THROW(sirf_estimator({.structure = {.top = 0}}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
