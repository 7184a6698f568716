#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>

#include <curvature/core/error.hpp>
#include <curvature/layerwise/damping.hpp>
#include <curvature/layerwise/kfac.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/kronecker.hpp>

#include "layerwise/reference.hpp"
#include "support/operator_laws.hpp"

BOOST_AUTO_TEST_SUITE(damping_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// A random positive definite matrix.
at::Tensor second_moment(int64_t n, uint64_t seed) {
  const at::Tensor x = numbers({2 * n, n}, seed);
  return x.t().matmul(x);
}

at::Tensor eye_of(const at::Tensor& a) { return at::eye(a.size(0), a.options()); }

double mean_eigenvalue(const at::Tensor& a) { return a.diagonal().mean().item<double>(); }

at::Tensor dense_damped(const OperatorPtr& a, KroneckerDamping kind, double damping) {
  return materialize(*damped(a, {.damping = damping, .kind = kind}));
}

EmpiricalRisk mlp_risk() {
  const auto net = seeded(
      torch::nn::Sequential(torch::nn::Linear(3, 4), torch::nn::Tanh(), torch::nn::Linear(4, 2)),
      9);
  return EmpiricalRisk(Model::from_module(net), mean_squared_error(),
                       tensor_dataset({numbers({6, 3}, 1)}, numbers({6, 2}, 2), 3));
}

}  // namespace

BOOST_AUTO_TEST_CASE(each_kind_is_its_formula) {
  const at::Tensor b = second_moment(3, 1), a = second_moment(4, 2);
  const OperatorPtr product = kronecker({b, a}, Symmetry::kPositiveSemidefinite);
  const double d = 0.3, root = std::sqrt(d);
  const double pi = std::sqrt(mean_eigenvalue(a) / mean_eigenvalue(b));
  const at::Tensor exact = at::kron(b, a);
  BOOST_TEST(close(dense_damped(product, KroneckerDamping::kExact, d), exact + d * eye_of(exact)));
  BOOST_TEST(close(dense_damped(product, KroneckerDamping::kPerFactor, d),
                   at::kron(b + root * eye_of(b), a + root * eye_of(a))));
  BOOST_TEST(close(dense_damped(product, KroneckerDamping::kHeuristicPi, d),
                   at::kron(b + root / pi * eye_of(b), a + pi * root * eye_of(a))));
  // A x B + d I and two cross terms (assertion A15).
  BOOST_TEST(close(dense_damped(product, KroneckerDamping::kHeuristicPi, d),
                   exact + d * eye_of(exact) + root / pi * at::kron(eye_of(b), a) +
                       pi * root * at::kron(b, eye_of(a))));
}

BOOST_AUTO_TEST_CASE(pi_makes_the_trace_smallest_and_knows_no_scale) {
  const at::Tensor b = second_moment(3, 3), a = 50 * second_moment(5, 4);
  const OperatorPtr product = kronecker({b, a}, Symmetry::kPositiveSemidefinite);
  const double d = 0.2;
  const auto pi_damped = damped(product, {.damping = d, .kind = KroneckerDamping::kHeuristicPi});
  const double smallest = *pi_damped->trace();
  for (const double pi : {0.1, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 100.0}) {
    const double trace = (b + std::sqrt(d) / pi * eye_of(b)).trace().item<double>() *
                         (a + pi * std::sqrt(d) * eye_of(a)).trace().item<double>();
    BOOST_TEST(smallest <= trace * (1 + 1e-12));
  }
  const OperatorPtr rescaled = kronecker({b / 7, a * 7}, Symmetry::kPositiveSemidefinite);
  BOOST_TEST(
      close(dense_damped(rescaled, KroneckerDamping::kHeuristicPi, d), materialize(*pi_damped)));
}

BOOST_AUTO_TEST_CASE(three_factors_share_the_damping) {
  const at::Tensor a = second_moment(2, 5), b = 9 * second_moment(3, 6), c = second_moment(4, 7);
  const double d = 0.1, share = std::cbrt(d);
  const double mean = std::cbrt(mean_eigenvalue(a) * mean_eigenvalue(b) * mean_eigenvalue(c));
  const auto with = [&](const at::Tensor& x) {
    return x + share * mean_eigenvalue(x) / mean * eye_of(x);
  };
  BOOST_TEST(close(dense_damped(kronecker({a, b, c}, Symmetry::kPositiveSemidefinite),
                                KroneckerDamping::kHeuristicPi, d),
                   at::kron(at::kron(with(a), with(b)), with(c))));
}

BOOST_AUTO_TEST_CASE(the_nearest_product_is_stationary) {
  // S_B = tr_A[(I (x) S_A^-1) M] / n and S_A = tr_B[(S_B^-1 (x) I) M] / m for M = B (x) A + d I.
  const at::Tensor b = second_moment(3, 3), a = 50 * second_moment(5, 4);
  const OperatorPtr product = kronecker({b, a}, Symmetry::kPositiveSemidefinite);
  for (const double d : {1e-3, 1.0, 100.0}) {
    const auto nearest =
        damped(product, {.damping = d, .kind = KroneckerDamping::kKullbackLeibler});
    const auto structure = nearest->structure();
    const auto& factors = std::get<KroneckerStructure>(structure).factors;
    const at::Tensor s_b = factors[0], s_a = factors[1];
    const at::Tensor m =
        (at::kron(b, a) + d * at::eye(15, a.options())).view({3, 5, 3, 5});  // [b, a, b', a']
    BOOST_TEST(close(s_b, at::einsum("iajc,ca->ij", {m, s_a.inverse()}) / 5, {1e-9}));
    BOOST_TEST(close(s_a, at::einsum("iajc,ji->ac", {m, s_b.inverse()}) / 3, {1e-9}));
  }
}

BOOST_AUTO_TEST_CASE(the_nearest_product_is_exact_where_there_is_an_exact_one) {
  const at::Tensor a = second_moment(4, 2), two = 2 * at::eye(3, a.options());
  const OperatorPtr product = kronecker({two, a}, Symmetry::kPositiveSemidefinite);
  const at::Tensor expected = at::kron(two, a) + 0.3 * at::eye(12, a.options());
  BOOST_TEST(close(dense_damped(product, KroneckerDamping::kKullbackLeibler, 0.3), expected));
  BOOST_TEST(close(dense_damped(product, KroneckerDamping::kKullbackLeibler, 0), at::kron(two, a)));
  const OperatorPtr dead = kronecker({0 * two, a}, Symmetry::kPositiveSemidefinite);
  BOOST_TEST(close(dense_damped(dead, KroneckerDamping::kKullbackLeibler, 0.3),
                   0.3 * at::eye(12, a.options())));
}

BOOST_AUTO_TEST_CASE(the_nearest_product_has_a_better_inverse_than_pi) {
  // Spectra i^-1 and damping a hundredth of the largest eigenvalue.
  const at::Tensor a = at::diag(1 / at::arange(1, 31, at::TensorOptions(at::kDouble)));
  const at::Tensor b = at::diag(1 / at::arange(1, 21, at::TensorOptions(at::kDouble)));
  const OperatorPtr product = kronecker({b, a}, Symmetry::kPositiveSemidefinite);
  const auto error = [&](KroneckerDamping kind) {
    const at::Tensor exact = 1 / dense_damped(product, KroneckerDamping::kExact, 0.01).diagonal();
    return ((1 / dense_damped(product, kind, 0.01).diagonal() - exact).norm() / exact.norm())
        .item<double>();
  };
  BOOST_TEST(error(KroneckerDamping::kKullbackLeibler) < 0.1);
  BOOST_TEST(error(KroneckerDamping::kHeuristicPi) > 0.4);
}

BOOST_AUTO_TEST_CASE(a_layerwise_operator_is_damped_block_by_block) {
  const EmpiricalRisk risk = mlp_risk();
  const OperatorPtr plain = kfac(risk);
  const at::Tensor before = materialize(*plain);
  for (const KroneckerDamping kind :
       {KroneckerDamping::kExact, KroneckerDamping::kPerFactor, KroneckerDamping::kHeuristicPi,
        KroneckerDamping::kKullbackLeibler}) {
    for (const bool relative : {false, true}) {
      const DampingOptions options = {.damping = 0.1, .kind = kind, .relative = relative};
      const OperatorPtr a = damped(plain, options);
      const at::Tensor dense = materialize(*a);
      BOOST_TEST(close(materialize(*a->inverse()).matmul(dense), eye_of(dense)));
      BOOST_TEST(close(materialize(*damped_inverse(plain, options)).matmul(dense), eye_of(dense)));
      BOOST_TEST(a->is_symmetric());
    }
  }
  BOOST_TEST(close(materialize(*damped(plain, {.damping = 0.1})), before + 0.1 * eye_of(before)));
  BOOST_TEST(at::equal(materialize(*plain), before));
}

BOOST_AUTO_TEST_CASE(relative_damping_is_in_units_of_each_blocks_mean_eigenvalue) {
  const EmpiricalRisk risk = mlp_risk();
  const OperatorPtr plain = kfac(risk);
  const OperatorPtr a = damped(plain, {.damping = 0.5, .relative = true});
  const auto before = std::get<PartitionStructure>(plain->structure()).blocks;
  const auto after = std::get<PartitionStructure>(a->structure()).blocks;
  BOOST_REQUIRE(before.size() == 2);
  for (size_t i = 0; i < before.size(); ++i) {
    const at::Tensor block = materialize(*before[i]);
    BOOST_TEST(close(materialize(*after[i]), block + 0.5 * mean_eigenvalue(block) * eye_of(block)));
  }
}

BOOST_AUTO_TEST_CASE(dead_layers_and_other_blocks) {
  const at::Tensor a = second_moment(3, 8);
  const OperatorPtr dead =
      kronecker({at::zeros({2, 2}, a.options()), a}, Symmetry::kPositiveSemidefinite);
  const at::Tensor zero = at::zeros({2, 2}, a.options());
  BOOST_TEST(close(dense_damped(dead, KroneckerDamping::kHeuristicPi, 0.09),
                   at::kron(zero + 0.3 * eye_of(zero), a + 0.3 * eye_of(a))));
  BOOST_TEST(close(materialize(*damped(dead, {.damping = 2, .relative = true})),
                   2 * at::eye(6, a.options())));
  const at::Tensor entries = numbers({4}, 9).abs();
  BOOST_TEST(close(dense_damped(curvature::diagonal(entries), KroneckerDamping::kHeuristicPi, 0.5),
                   at::diag(entries + 0.5)));
}

BOOST_AUTO_TEST_CASE(step_and_momentum_of_the_quadratic_model) {
  // The best step along the natural gradient D and the last step d0 for the model x^T M x / 2 +
  // g^T x (Martens and Grosse 2015, section 7; assertion A18).
  const EmpiricalRisk risk = mlp_risk();
  const double damping = 0.05;
  const OperatorPtr k = damped(kfac(risk), {.damping = damping});
  const at::Tensor g = risk.space()
                           .join([&] {
                             TensorList columns = risk.gradient();
                             for (at::Tensor& part : columns) part = part.unsqueeze(-1);
                             return columns;
                           }())
                           .squeeze(1);
  const at::Tensor step = -inverse(k)->apply(g), last = numbers({g.size(0)}, 7);
  const at::Tensor both = at::stack({step, last}, 1);
  const auto best = [&](const OperatorPtr& m) {
    return at::linalg_solve(both.t().mm(m->apply(both)), -both.t().mv(g));
  };
  // With the curvature whose inverse made the step: that step, whole, and no momentum.
  BOOST_TEST(close(best(k), at::tensor({1.0, 0.0}, at::kDouble), {1e-9, 1e-9}));
  const OperatorPtr m = shifted(ggn(risk), damping);
  const at::Tensor coefficients = best(m), delta = both.mv(coefficients);
  const at::Tensor model_gradient = m->apply(delta) + g;
  BOOST_TEST(both.t().mv(model_gradient).abs().max().item<double>() < 1e-10);
  const double change =
      0.5 * delta.dot(m->apply(delta)).item<double>() + g.dot(delta).item<double>();
  const double half_product = 0.5 * coefficients.dot(both.t().mv(g)).item<double>();
  BOOST_TEST(std::abs(change - half_product) < 1e-12 * std::abs(change));
}

BOOST_AUTO_TEST_CASE(wrong_options_are_refused) {
  const OperatorPtr a = curvature::diagonal(at::ones({2}, at::kDouble));
  BOOST_CHECK_THROW(damped(nullptr, {}), OptionError);
  BOOST_CHECK_THROW(damped(a, {.damping = -1}), OptionError);
  BOOST_CHECK_THROW(damped(a, {.damping = std::numeric_limits<double>::infinity()}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
