// Estimators whose state is in bfloat16, on a quadratic loss with noisy gradients.
#include <curvature/operators/algebra.hpp>
#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/shampoo_estimator.hpp>
#include <curvature/optim/soap_estimator.hpp>
#include <curvature/optim/spiked_kl_shampoo_estimator.hpp>

#include "optim/psgd.hpp"

BOOST_AUTO_TEST_SUITE(low_precision_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

struct Case {
  std::string name;
  EstimatorFactory estimator;
};

std::ostream& operator<<(std::ostream& stream, const Case& it) { return stream << it.name; }

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const auto& [name, geometry] :
       {std::pair("half", PsgdGeometry::kQHalfEq), std::pair("quad", PsgdGeometry::kQuad),
        std::pair("right", PsgdGeometry::kQeq), std::pair("triangular", PsgdGeometry::kEq)}) {
    all.push_back({std::string("psgd-kron, ") + name, psgd_kron_estimator({.geometry = geometry})});
  }
  all.push_back({"psgd-lra", psgd_lra_estimator({.rank = 5})});
  all.push_back({"spiked", spiked_kl_shampoo_estimator({.rank = 3})});
  all.push_back({"kl-shampoo", kl_shampoo_estimator()});
  all.push_back({"kl-soap", kl_shampoo_estimator(kl_soap_options())});
  all.push_back({"soap", soap_estimator()});
  return all;
}

/// A matrix of the whole parameter moves by less than bfloat16 can hold: it helps, but lags behind.
std::vector<Case> with_lagging_ones() {
  std::vector<Case> all = cases();
  for (const PsgdGeometry geometry :
       {PsgdGeometry::kQHalfEq, PsgdGeometry::kQuad, PsgdGeometry::kQeq, PsgdGeometry::kEq}) {
    all.push_back({"psgd-dense", psgd_dense_estimator({.geometry = geometry})});
  }
  return all;
}

const auto each_case = boost::unit_test::data::make(cases());
const auto every_case = boost::unit_test::data::make(with_lagging_ones());

/// A loss <D, H1 D H2> / 2, D = W - W*, of condition 3000, with gradients whose noise has the
/// covariance H2 (x) H1.
struct Quadratic {
  at::Tensor h1 = spectrum({8, 8}, -2, 1), h2 = spectrum({6, 6}, -1.5, 2);
  at::Tensor target = normal({8, 6}, 3);

  static at::Tensor spectrum(at::IntArrayRef shape, double last, uint64_t seed) {
    const at::Tensor q = std::get<0>(at::linalg_qr(normal(shape, seed)));
    return q.mm(at::logspace(0, last, shape[0], 10, q.options()).diag()).mm(q.t());
  }
  at::Tensor gradient(const at::Tensor& w) const {
    return h1.mm(w.to(at::kDouble) - target).mm(h2);
  }
  at::Tensor noise(uint64_t seed) const {
    return 0.1 * symmetric_power(h1, 0.5).mm(normal({8, 6}, seed)).mm(symmetric_power(h2, 0.5));
  }
  double loss(const at::Tensor& w) const {
    return 0.5 * ((w.to(at::kDouble) - target) * gradient(w)).sum().item<double>();
  }
};

PreconditionedOptions options_in(at::ScalarType dtype) {
  return {.learning_rate = 0.1, .momentum = {.beta = 0.9}, .view = {.dtype = dtype}};
}

/// The loss after 600 steps of falling rates.
double trained(const EstimatorFactory& estimator, at::ScalarType dtype) {
  constexpr int64_t kSteps = 600;
  const Quadratic problem;
  Replay replay(torch::zeros({8, 6}, at::kFloat), estimator, options_in(dtype));
  at::Tensor w = replay.parameter.detach();
  for (int64_t t = 0; t < kSteps; ++t) {
    replay.optimizer.set_learning_rate(0.1 * double(kSteps - t) / double(kSteps));
    w = replay.step(problem.gradient(w) + problem.noise(100 + uint64_t(t)));
  }
  return problem.loss(w);
}

}  // namespace

BOOST_DATA_TEST_CASE(trains_as_in_single_precision, every_case, method) {
  const double start = Quadratic().loss(torch::zeros({8, 6}));
  const double single = trained(method.estimator, at::kFloat);
  BOOST_TEST(single < 2e-3 * start);
  BOOST_TEST(trained(method.estimator, at::kBFloat16) < 1.5 * single);
}

BOOST_DATA_TEST_CASE(state_is_as_small_as_asked, every_case, method) {
  const auto gradients = some_gradients({8, 6}, 25);
  std::vector<int64_t> bytes;
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    Replay replay(torch::zeros({8, 6}, at::kFloat), method.estimator, options_in(dtype));
    for (const at::Tensor& g : gradients) replay.step(g);
    int64_t size = 0;
    for (const auto& [name, tensor] : replay.optimizer.save().tensors) {
      if (tensor.numel() == 1) continue;
      BOOST_TEST(tensor.scalar_type() == dtype);
      size += int64_t(tensor.nbytes());
    }
    bytes.push_back(size);
  }
  BOOST_TEST(bytes[0] == 2 * bytes[1]);
}

BOOST_DATA_TEST_CASE(state_resumes_bit_for_bit, every_case, method) {
  BOOST_TEST(resumes(normal({8, 6}, 7).to(at::kFloat), method.estimator, options_in(at::kBFloat16),
                     some_gradients({8, 6}, 25), 13));
}

BOOST_DATA_TEST_CASE(what_is_learned_is_that_of_double_precision, each_case, method) {
  // Rounding moves factors by 2^-9; P^-2 is a fourth power of PSGD's, and averages stop where a
  // sample differs by less than 2^-9 / (1 - beta2) = 4 %.
  const Quadratic problem;
  const auto learned = [&](at::ScalarType dtype) {
    Replay replay(torch::zeros({8, 6}, at::kDouble), method.estimator, options_in(dtype));
    for (uint64_t t = 0; t < 300; ++t) replay.step(problem.noise(t));
    return materialize(*replay.optimizer.snapshot("w").front());
  };
  const at::Tensor low = learned(at::kBFloat16);
  BOOST_TEST(low.scalar_type() == at::kFloat);
  const at::Tensor expected = learned(at::kDouble);
  BOOST_TEST((low - expected).norm().item<double>() < 0.3 * expected.norm().item<double>());
}

BOOST_AUTO_TEST_SUITE_END()
