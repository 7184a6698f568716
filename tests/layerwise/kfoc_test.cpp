// The nearest Kronecker product, against the singular value decomposition of the rearranged block.
#include <curvature/core/error.hpp>
#include <curvature/layerwise/kfac.hpp>
#include <curvature/matrix_free/ggn.hpp>

#include "support/dense_operator.hpp"
#include "support/problems.hpp"

BOOST_AUTO_TEST_SUITE(kfoc_test)

using namespace curvature;
using namespace curvature::testing;

namespace {

/// tanh(x W^T) V^T without biases, so that blocks are those of the parameters.
EmpiricalRisk plain_risk(int64_t examples, int64_t batch_size, RiskOptions options = {}) {
  torch::manual_seed(4);
  const at::Tensor w = torch::randn({4, 6}, double_options()).requires_grad_();
  const at::Tensor v = torch::randn({3, 4}, double_options()).requires_grad_();
  const Model model(
      [=](const TensorList& x) { return torch::tanh(x[0].matmul(w.t())).matmul(v.t()); },
      {{"w", w}, {"v", v}});
  const at::Tensor labels = torch::arange(examples, at::kLong).remainder(3).to(test_device());
  return EmpiricalRisk(
      model, cross_entropy(),
      tensor_dataset({torch::randn({examples, 6}, double_options())}, labels, batch_size),
      std::move(options));
}

/// The best Kronecker product B x A with B `[m, m]` of a block, by Van Loan's rearrangement.
at::Tensor nearest(const at::Tensor& block, int64_t m) {
  const int64_t n = block.size(0) / m;
  const at::Tensor rearranged =
      block.reshape({m, n, m, n}).permute({0, 2, 1, 3}).reshape({m * m, n * n});
  const auto [u, s, vt] = torch::linalg_svd(rearranged, false);
  const at::Tensor b = (u.select(1, 0) * s[0]).reshape({m, m}), a = vt[0].reshape({n, n});
  return torch::kron(b, a);
}

}  // namespace

BOOST_AUTO_TEST_CASE(it_is_the_nearest_product_of_each_block) {
  for (const int64_t batch_size : {20, 7}) {
    const EmpiricalRisk risk = plain_risk(20, batch_size);
    const at::Tensor exact = materialize(*ggn(risk, {.blocks = Blocks::kParameter}));
    const at::Tensor actual = materialize(*kfoc(risk));
    const at::Tensor w = actual.narrow(0, 0, 24).narrow(1, 0, 24);
    const at::Tensor v = actual.narrow(0, 24, 12).narrow(1, 24, 12);
    BOOST_TEST(close(w, nearest(exact.narrow(0, 0, 24).narrow(1, 0, 24), 4), {1e-9, 0}));
    BOOST_TEST(close(v, nearest(exact.narrow(0, 24, 12).narrow(1, 24, 12), 3), {1e-9, 0}));
    BOOST_TEST((actual - exact).norm().item<double>() <=
               (materialize(*kfac(risk)) - exact).norm().item<double>());
  }
}

BOOST_AUTO_TEST_CASE(workers_fit_the_examples_of_all) {
  const EmpiricalRisk one = plain_risk(20, 7, {.reduction = Reduction::kSum});
  const EmpiricalRisk two =
      plain_risk(20, 7, {.reduction = Reduction::kSum, .reducer = std::make_shared<HeldTwice>()});
  BOOST_TEST(close(materialize(*kfoc(two)), 2 * materialize(*kfoc(one)), {1e-9, 0}));
}

BOOST_AUTO_TEST_CASE(one_example_is_exact_and_forward_only_is_refused) {
  const EmpiricalRisk risk = plain_risk(1, 1);
  BOOST_TEST(close(materialize(*kfoc(risk)),
                   materialize(*ggn(risk, {.blocks = Blocks::kParameter})), {1e-9, 0}));
  BOOST_CHECK_THROW(kfoc(risk, {.fisher = Fisher::kForwardOnly}), OptionError);
  BOOST_CHECK_THROW(ekfac(risk, {.fisher = Fisher::kForwardOnly}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
