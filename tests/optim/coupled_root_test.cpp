// Inverse roots from products against eigenvectors.
#include "optim/coupled_root.hpp"

#include <curvature/core/error.hpp>

#include "optim/reference.hpp"

BOOST_AUTO_TEST_SUITE(coupled_root_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

/// Eigenvalues from 1 down to 1 / condition, evenly spaced in their logarithms.
struct Spectrum {
  at::Tensor vectors, values;

  Spectrum(int64_t d, double condition)
      : vectors(std::get<0>(torch::linalg_qr(normal({d, d}, 1)))),
        values(torch::pow(10.0,
                          -std::log10(condition) * torch::linspace(0, 1, d, double_options()))) {}
  at::Tensor power(double p) const {
    return vectors.matmul(values.pow(p).diag()).matmul(vectors.t());
  }
};

double relative_error(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual.to(at::kDouble) - expected).norm() / expected.norm()).item<double>();
}

PreconditionedOptions shell() {
  return {.learning_rate = 0.01,
          .view = {.shape = ShapePolicy::kTensor, .vectors = VectorPolicy::kFull}};
}

}  // namespace

/// The published table: iterations of Newton's method in float64 (to 1e-6; here to 1e-10, one more
/// at most), and errors in float32, which are those of any method.
BOOST_AUTO_TEST_CASE(iterations_and_errors_are_those_of_the_table) {
  struct Row {
    double condition;
    int64_t p, newton;
    double single_error;
  };
  for (const Row& row : std::vector<Row>{{1e2, 2, 11, 2e-6},
                                         {1e2, 4, 10, 1e-6},
                                         {1e4, 2, 16, 7e-5},
                                         {1e4, 4, 15, 3e-5},
                                         {1e6, 2, 22, 4e-3},
                                         {1e6, 4, 19, 1.5e-3}}) {
    const Spectrum spectrum(128, row.condition);
    const at::Tensor a = spectrum.power(1), expected = spectrum.power(-1 / double(row.p));
    const CoupledRoot newton = coupled_inverse_root(a, row.p, 2);
    BOOST_TEST(relative_error(newton.root, expected) < 3e-8);
    BOOST_TEST(newton.iterations >= row.newton);
    BOOST_TEST(newton.iterations <= row.newton + 1);
    const CoupledRoot third = coupled_inverse_root(a, row.p, 3);
    BOOST_TEST(relative_error(third.root, expected) < 3e-8);
    BOOST_TEST(third.iterations < newton.iterations);
    const CoupledRoot single = coupled_inverse_root(a.to(at::kFloat), row.p, 3);
    BOOST_TEST(relative_error(single.root, expected) < 3 * row.single_error);
    BOOST_TEST(single.residual < 0.1);
  }
}

BOOST_AUTO_TEST_CASE(what_rounding_spoils_is_left_to_eigenvectors) {
  const at::Tensor a = Spectrum(128, 1e8).power(1).to(at::kFloat);
  for (const RootMethod method : {RootMethod::kNewton, RootMethod::kThirdOrder}) {
    BOOST_TEST(!root_by_products(a, method, 0.25, 0));
    BOOST_TEST(root_by_products(a.to(at::kDouble), method, 0.25, 0).has_value());
    BOOST_TEST(!root_by_products(torch::zeros({3, 3}), method, 0.25, 0));
  }
  BOOST_TEST(!root_by_products(torch::eye(3), RootMethod::kEigh, 0.25, 0));
}

BOOST_AUTO_TEST_CASE(roots_of_every_index) {
  const Spectrum spectrum(6, 50);
  for (const int64_t p : {1, 2, 3, 4, 5, 6, 8}) {
    for (const int64_t order : {2, 3, 4}) {
      BOOST_TEST(relative_error(coupled_inverse_root(7 * spectrum.power(1), p, order).root,
                                spectrum.power(-1 / double(p)) * std::pow(7, -1 / double(p))) <
                 1e-9);
    }
  }
}

BOOST_AUTO_TEST_CASE(shampoo_is_the_same_by_every_method) {
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{5, 4}, std::vector<int64_t>{6}, std::vector<int64_t>{3, 4, 2}}) {
    for (const std::optional<double> exponent : {std::optional<double>(), std::optional(0.5)}) {
      for (const RootMethod method : {RootMethod::kNewton, RootMethod::kThirdOrder}) {
        Replay reference(normal(shape, 7),
                         shampoo_estimator({.factor_epsilon = 1e-4, .exponent = exponent}),
                         shell());
        Replay by_products(
            normal(shape, 7),
            shampoo_estimator({.factor_epsilon = 1e-4, .exponent = exponent, .root = method}),
            shell());
        for (const at::Tensor& g : some_gradients(shape, 8)) {
          const at::Tensor expected = reference.step(g);
          BOOST_TEST(close(by_products.step(g), expected, {1e-7, 0}));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(wrong_options_are_named) {
  BOOST_CHECK_THROW(shampoo_estimator({.exponent = 0.3, .root = RootMethod::kNewton}), OptionError);
  BOOST_CHECK_THROW(shampoo_estimator({.rank_tolerance = 0.1, .root = RootMethod::kNewton}),
                    OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
