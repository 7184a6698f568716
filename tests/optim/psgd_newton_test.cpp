// PSGD of Newton's type on quadratics, whose curvature is known.
#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <curvature/core/error.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/optim/psgd_newton.hpp>

#include "optim/small_problems.hpp"
#include "support/dense_operator.hpp"
#include "support/optimizer_laws.hpp"

BOOST_AUTO_TEST_SUITE(psgd_newton_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

const std::vector<PsgdForm> kForms = {
    PsgdKronOptions{.preconditioner_rate = 0.3}, PsgdDenseOptions{.preconditioner_rate = 0.3},
    PsgdDenseOptions{.preconditioner_rate = 0.3, .geometry = PsgdGeometry::kEq},
    PsgdLraOptions{.rank = 4, .preconditioner_rate = 0.3}};

/// The direction P g after `steps` steps without moving.
at::Tensor direction(const EmpiricalRisk& risk, PsgdNewtonOptions options, int64_t steps) {
  options.momentum = 0;
  options.learning_rate = 0;
  const auto minimizer = psgd_newton(risk, options);
  for (int64_t step = 0; step < steps; ++step) minimizer->step(risk);
  minimizer->set_learning_rate(1);
  const at::Tensor before = parameters_of(risk);
  minimizer->step(risk);
  return before - parameters_of(risk);
}

}  // namespace

BOOST_AUTO_TEST_CASE(every_form_is_a_minimizer) {
  for (const PsgdForm& form : kForms) {
    for (const bool joint : {true, false}) {
      check_minimizer_laws(
          [&](const EmpiricalRisk& risk) {
            return psgd_newton(risk, {.learning_rate = 0.3, .form = form, .joint = joint});
          },
          {.steps = 300, .excess_loss = 1e-6});
    }
  }
}

BOOST_AUTO_TEST_CASE(a_matrix_becomes_the_inverse_of_the_hessian) {
  for (const PsgdGeometry geometry : {PsgdGeometry::kQHalfEq, PsgdGeometry::kEq}) {
    const auto net = seeded(torch::nn::Sequential(torch::nn::Linear(3, 2)), 5);
    const EmpiricalRisk risk = regression(net);
    const at::Tensor newton = torch::linalg_solve(materialize(*hessian(risk)), gradient_of(risk));
    const at::Tensor found = direction(
        risk, {.form = PsgdDenseOptions{.preconditioner_rate = 0.3, .geometry = geometry}}, 6000);
    BOOST_TEST(close(found, newton, {1e-8, 0}));
  }
}

BOOST_AUTO_TEST_CASE(parts_of_their_own_see_the_square_of_the_curvature) {
  // ((H^2)_bb)^-1/2 for the block of each parameter, to the floor of noise that is left.
  const auto net = seeded(torch::nn::Sequential(torch::nn::Linear(2, 1)), 5);
  const at::Tensor h =
      torch::tensor({{2.0, 0.3, 0.4}, {0.3, 1.0, 0.2}, {0.4, 0.2, 1.5}}, at::kDouble);
  const EmpiricalRisk risk(Model::from_module(net), mean_squared_error(),
                           tensor_dataset({numbers({9, 2}, 1)}, numbers({9, 1}, 2), 9));
  const at::Tensor g = gradient_of(risk);
  const auto root = [](const at::Tensor& a) {
    const auto [values, vectors] = torch::linalg_eigh(a);
    return vectors.matmul(values.rsqrt().diag()).matmul(vectors.t());
  };
  const at::Tensor square = h.matmul(h);
  const at::Tensor expected =
      torch::cat({root(square.narrow(0, 0, 2).narrow(1, 0, 2)).matmul(g.narrow(0, 0, 2)),
                  root(square.narrow(0, 2, 1).narrow(1, 2, 1)).matmul(g.narrow(0, 2, 1))});
  const at::Tensor found =
      direction(risk,
                {.form = PsgdDenseOptions{.preconditioner_rate = 0.005},
                 .joint = false,
                 .curvature =
                     [&](const EmpiricalRisk& batch) {
                       return dense(h, batch.space(), batch.space(), Symmetry::kSymmetric);
                     }},
                8000);
  BOOST_TEST((found - expected).norm().item<double>() < 0.03 * expected.norm().item<double>());
}

BOOST_AUTO_TEST_CASE(negative_curvature_is_left_behind) {
  // f = (w_0 w_1 - 1)^2 near its saddle point, whose Hessian has eigenvalues 2 and -2.
  at::Tensor w = torch::tensor({0.05, 0.02}, at::kDouble).requires_grad_();
  const EmpiricalRisk risk(
      Model([w](const TensorList& x) { return x[0] * w[0] * w[1]; }, {{"w", w}}),
      mean_squared_error(),
      tensor_dataset({at::ones({1, 1}, at::kDouble)}, at::ones({1, 1}, at::kDouble), 1));
  const auto minimizer =
      psgd_newton(risk, {.learning_rate = 0.2, .momentum = 0, .form = PsgdDenseOptions{}});
  for (int step = 0; step < 200; ++step) minimizer->step(risk);
  BOOST_TEST(risk.loss() < 1e-12);
}

BOOST_AUTO_TEST_CASE(the_norm_of_a_step_is_bounded) {
  const auto net = two_layers(false);
  const EmpiricalRisk risk = regression(net);
  const auto minimizer = psgd_newton(risk, {.learning_rate = 0.5, .max_norm = 1e-3});
  const at::Tensor before = parameters_of(risk);
  const StepReport report = minimizer->step(risk);
  BOOST_TEST((parameters_of(risk) - before).norm().item<double>() == 0.5e-3,
             boost::test_tools::tolerance(1e-9));
  BOOST_TEST(report.learning_rate < 0.5);
}

BOOST_AUTO_TEST_CASE(products_are_asked_for_at_refreshes_alone) {
  const auto net = two_layers(false);
  const EmpiricalRisk risk = regression(net);
  int64_t asked = 0;
  const auto minimizer = psgd_newton(risk, {.form = PsgdKronOptions{.refresh_interval = 3},
                                            .curvature = [&](const EmpiricalRisk& batch) {
                                              ++asked;
                                              return hessian(batch);
                                            }});
  for (int step = 0; step < 7; ++step) minimizer->step(risk);
  BOOST_TEST(asked == 3);
}

BOOST_AUTO_TEST_CASE(wrong_options_are_named) {
  const EmpiricalRisk risk = regression(two_layers(false));
  BOOST_CHECK_THROW(psgd_newton(risk, {.momentum = 1}), OptionError);
  BOOST_CHECK_THROW(psgd_newton(risk, {.max_norm = -1}), OptionError);
  BOOST_CHECK_THROW(psgd_newton(risk, {.form = PsgdDenseOptions{.max_size = 3}}), OptionError);
  BOOST_CHECK_THROW(psgd_newton(risk, {.learning_rate = -1}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
