#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <curvature/core/error.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/optim/cubic_model.hpp>
#include <curvature/optim/newton.hpp>

#include "optim/small_problems.hpp"
#include "support/optimizer_laws.hpp"

BOOST_AUTO_TEST_SUITE(newton_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

/// How far a step moved.
at::Tensor moved_by(Minimizer& minimizer, const EmpiricalRisk& risk) {
  const at::Tensor before = parameters_of(risk);
  minimizer.step(risk);
  return parameters_of(risk) - before;
}

at::Tensor eye_of(const at::Tensor& a) { return at::eye(a.size(0), a.options()); }

/// (w_0 w_1 - 1)^2, with a saddle point at 0.
struct Saddle {
  at::Tensor w;
  EmpiricalRisk risk;
  explicit Saddle(double first)
      : w(at::tensor({first, 0.0}, at::TensorOptions(at::kDouble).device(test_device()))
              .requires_grad_()),
        risk(Model([w = w](const TensorList& x) { return x[0] * w[0] * w[1]; }, {{"w", w}}),
             mean_squared_error(),
             tensor_dataset({at::ones({1, 1}, w.options().requires_grad(false))},
                            at::ones({1, 1}, w.options().requires_grad(false)), 1)) {}
};

int64_t steps_to(Minimizer& minimizer, const EmpiricalRisk& risk, double norm, int64_t at_most) {
  int64_t steps = 0;
  while (steps < at_most && gradient_norm(risk) > norm) {
    minimizer.step(risk);
    ++steps;
  }
  return steps;
}

}  // namespace

BOOST_AUTO_TEST_CASE(hessian_free_is_a_minimizer) {
  check_minimizer_laws([](const EmpiricalRisk& risk) { return hessian_free(risk); });
}

BOOST_AUTO_TEST_CASE(levenberg_marquardt_is_a_minimizer) {
  for (const bool scale_by_diagonal : {false, true}) {
    check_minimizer_laws(
        [&](const EmpiricalRisk& risk) {
          return levenberg_marquardt(risk, {.scale_by_diagonal = scale_by_diagonal});
        },
        {.steps = 20, .state_has_shapes = false});
  }
}

BOOST_AUTO_TEST_CASE(gradient_regularized_newton_is_a_minimizer) {
  for (const DampingRule rule : {DampingRule::kGradientNormalized, DampingRule::kAdaptiveNewton,
                                 DampingRule::kSuperUniversal}) {
    check_minimizer_laws(
        [&](const EmpiricalRisk& risk) {
          return gradient_regularized_newton(risk, {.rule = rule});
        },
        {.steps = 20, .state_has_shapes = false});
  }
}

BOOST_AUTO_TEST_CASE(newton_cg_is_a_minimizer) {
  check_minimizer_laws([](const EmpiricalRisk& risk) { return newton_cg(risk); },
                       {.steps = 20, .state_has_shapes = false});
}

BOOST_AUTO_TEST_CASE(cubic_newton_is_a_minimizer) {
  check_minimizer_laws([](const EmpiricalRisk& risk) { return cubic_newton(risk); },
                       {.steps = 20, .state_has_shapes = false});
}

BOOST_AUTO_TEST_CASE(levenberg_marquardt_solves_the_damped_system) {
  for (const bool scale_by_diagonal : {false, true}) {
    const EmpiricalRisk risk = regression(two_layers(false), {.weight_decay = 0.01});
    const at::Tensor g = materialize(*ggn(risk));
    const at::Tensor diagonal = g.diagonal();
    const at::Tensor added =
        scale_by_diagonal ? at::diag(diagonal.clamp_min(1e-6 * diagonal.max().item<double>()))
                          : eye_of(g);
    const at::Tensor expected = -at::linalg_solve(g + 0.2 * added, gradient_of(risk));
    const auto minimizer = levenberg_marquardt(
        risk, {.damping = 0.2, .scale_by_diagonal = scale_by_diagonal, .relative_residual = 1e-12});
    BOOST_TEST(close(moved_by(*minimizer, risk), expected, {1e-9}));
  }
}

BOOST_AUTO_TEST_CASE(levenberg_marquardt_in_the_space_of_the_data_takes_the_same_steps) {
  // 18 residuals, 26 parameters; three ways to solve.
  for (const bool scale_by_diagonal : {false, true}) {
    const EmpiricalRisk by_products = regression(two_layers(false), {.weight_decay = 0.01});
    const EmpiricalRisk by_matrix = regression(two_layers(false), {.weight_decay = 0.01});
    const EmpiricalRisk by_data = regression(two_layers(false), {.weight_decay = 0.01});
    LevenbergMarquardtOptions options{
        .damping = 0.2, .scale_by_diagonal = scale_by_diagonal, .relative_residual = 1e-13};
    const auto products = levenberg_marquardt(by_products, options);
    options.solver = SystemSolver::kDirect;
    const auto matrix = levenberg_marquardt(by_matrix, options);
    options.curvature = [](const EmpiricalRisk& batch) { return ggn_low_rank(batch); };
    const auto data = levenberg_marquardt(by_data, options);
    for (int step = 0; step < 6; ++step) {
      const at::Tensor expected = moved_by(*matrix, by_matrix);
      BOOST_TEST(close(moved_by(*data, by_data), expected, {1e-8}));
      BOOST_TEST(close(moved_by(*products, by_products), expected, {1e-6}));
      BOOST_TEST(close(parameters_of(by_data), parameters_of(by_matrix), {1e-9}));
    }
    BOOST_TEST(by_data.loss() < regression(two_layers(false), {.weight_decay = 0.01}).loss() / 2);
  }
}

BOOST_AUTO_TEST_CASE(a_direct_solution_that_leads_uphill_is_no_step) {
  const EmpiricalRisk risk = regression(two_layers(false));
  const at::Tensor before = parameters_of(risk);
  const auto minimizer = levenberg_marquardt(
      risk, {.damping = 1e-6,
             .solver = SystemSolver::kDirect,
             .max_attempts = 2,
             .curvature = [](const EmpiricalRisk& batch) {
               return scaled_identity(-1, batch.space(),
                                      batch.parameters().front().options().requires_grad(false));
             }});
  BOOST_TEST(!minimizer->step(risk).accepted);
  BOOST_TEST(at::equal(parameters_of(risk), before));
}

BOOST_AUTO_TEST_CASE(attempts_share_the_curvature_of_a_step) {
  // The matrix is far too small, so that the first attempts go too far.
  const EmpiricalRisk risk = regression(two_layers(false));
  int64_t times = 0;
  const auto minimizer = levenberg_marquardt(
      risk, {.damping = 1e-6, .curvature = [&times](const EmpiricalRisk& batch) {
               ++times;
               return scaled_identity(1e-6, batch.space(),
                                      batch.parameters().front().options().requires_grad(false));
             }});
  const double before = risk.loss();
  const StepReport report = minimizer->step(risk);
  BOOST_TEST(report.accepted);
  BOOST_TEST(*report.damping > 1e-6 * 2 * 4);  // several failures
  BOOST_TEST(times == 1);
  BOOST_TEST(risk.loss() < before);
}

BOOST_AUTO_TEST_CASE(a_step_without_a_good_attempt_moves_nothing) {
  const EmpiricalRisk risk = regression(two_layers(false));
  const at::Tensor before = parameters_of(risk);
  const auto versions = risk.versions();
  const auto minimizer = levenberg_marquardt(
      risk, {.damping = 1e-6, .max_attempts = 2, .curvature = [](const EmpiricalRisk& batch) {
               return scaled_identity(1e-6, batch.space(),
                                      batch.parameters().front().options().requires_grad(false));
             }});
  BOOST_TEST(!minimizer->step(risk).accepted);
  BOOST_TEST(at::equal(parameters_of(risk), before));
  BOOST_TEST(risk.versions() == versions);
  BOOST_TEST(*minimizer->step(risk).damping > 1e-6);  // goes on with more damping
}

BOOST_AUTO_TEST_CASE(hessian_free_without_its_shortcuts_solves_the_damped_system) {
  const EmpiricalRisk risk = regression(seeded(torch::nn::Sequential(torch::nn::Linear(3, 2)), 5));
  const at::Tensor g = materialize(*ggn(risk));
  const at::Tensor expected = -at::linalg_solve(g + 1e-6 * eye_of(g), gradient_of(risk));
  const auto minimizer = hessian_free(risk, {.damping = 1e-6,
                                             .cg_progress = 0,
                                             .relative_residual = 1e-13,
                                             .start_decay = 0,
                                             .preconditioner_exponent = 0});
  BOOST_TEST(close(moved_by(*minimizer, risk), expected, {1e-8}));
}

BOOST_AUTO_TEST_CASE(hessian_frees_options_matter) {
  // Inputs of very different scales, products counted.
  const at::Tensor scales = at::logspace(0, 2, 20, 10, numbers({1}, 1).options());
  const auto products = [&](HessianFreeOptions options, int64_t steps) {
    const EmpiricalRisk risk(
        Model::from_module(seeded(torch::nn::Linear(20, 1), 5)), mean_squared_error(),
        tensor_dataset({numbers({60, 20}, 1) * scales}, numbers({60, 1}, 2), 60));
    int64_t count = 0;
    options.curvature = [&count](const EmpiricalRisk& batch) -> OperatorPtr {
      const OperatorPtr g = ggn(batch);
      return function_operator(g->spec(), [g, &count](const TensorList& x) {
        ++count;
        return g->apply(x);
      });
    };
    const auto minimizer = hessian_free(risk, options);
    for (int64_t step = 0; step < steps; ++step) minimizer->step(risk);
    return count;
  };
  const HessianFreeOptions exact{.damping = 1e-3, .cg_progress = 0, .relative_residual = 1e-8};
  HessianFreeOptions plain = exact;
  plain.preconditioner_exponent = 0;
  BOOST_TEST(products(exact, 1) < products(plain, 1));
  HessianFreeOptions progress = plain;
  progress.cg_progress = 0.01;
  BOOST_TEST(products(progress, 1) < products(plain, 1));
  HessianFreeOptions cold = exact;
  cold.start_decay = 0;
  BOOST_TEST(products(exact, 4) != products(cold, 4));
}

BOOST_AUTO_TEST_CASE(hessian_free_never_raises_the_loss) {
  const EmpiricalRisk risk = regression(two_layers(false));
  const double start = risk.loss();
  const auto minimizer = hessian_free(risk);
  double last = start;
  for (int step = 0; step < 60; ++step) {
    minimizer->step(risk);
    BOOST_TEST(risk.loss() <= last * (1 + 1e-15));
    last = risk.loss();
  }
  BOOST_TEST(last < 0.3 * start);
}

BOOST_AUTO_TEST_CASE(logistic_regression_takes_few_steps) {
  const EmpiricalRisk normalized = logistic_regression();
  const int64_t by_norm =
      steps_to(*gradient_regularized_newton(normalized, {.relative_residual = 1e-12}), normalized,
               1e-11, 30);
  BOOST_TEST_MESSAGE("gradient-normalised: " << by_norm << " steps");
  BOOST_TEST(by_norm <= 12);
  for (const DampingRule rule : {DampingRule::kAdaptiveNewton, DampingRule::kSuperUniversal}) {
    const EmpiricalRisk risk = logistic_regression();
    BOOST_TEST(
        steps_to(*gradient_regularized_newton(risk, {.rule = rule, .relative_residual = 1e-12}),
                 risk, 1e-9, 30) < 30);
  }
  const EmpiricalRisk region = logistic_regression(), cubic = logistic_regression();
  BOOST_TEST(steps_to(*newton_cg(region), region, 1e-10, 20) < 15);
  BOOST_TEST(steps_to(*cubic_newton(cubic), cubic, 1e-10, 30) < 25);
}

BOOST_AUTO_TEST_CASE(any_matrix_will_do_for_gradient_normalised_steps) {
  const EmpiricalRisk risk = logistic_regression();
  const auto minimizer = gradient_regularized_newton(
      risk, {.curvature = [](const EmpiricalRisk& batch) { return empirical_fisher(batch); }});
  const int64_t steps = steps_to(*minimizer, risk, 1e-8, 400);
  BOOST_TEST_MESSAGE("with the empirical Fisher: " << steps << " steps");
  BOOST_TEST(steps < 200);
}

BOOST_AUTO_TEST_CASE(negative_curvature_is_followed) {
  const Saddle near(1e-3);
  const auto region = newton_cg(near.risk);
  for (int step = 0; step < 60; ++step) region->step(near.risk);
  BOOST_TEST(near.risk.loss() < 1e-12);
  // The damped Hessian is not definite there: attempts fail until it is.
  const Saddle other(1e-3);
  const auto regularized = gradient_regularized_newton(other.risk);
  for (int step = 0; step < 100; ++step) regularized->step(other.risk);
  BOOST_TEST(other.risk.loss() < 1e-12);
}

BOOST_AUTO_TEST_CASE(cubic_newton_leaves_an_exact_saddle_point) {
  const Saddle saddle(0), stuck(0);
  const auto minimizer = cubic_newton(saddle.risk);
  for (int step = 0; step < 60; ++step) minimizer->step(saddle.risk);
  BOOST_TEST(saddle.risk.loss() < 1e-12);
  const auto blind = cubic_newton(stuck.risk, {.probe_steps = 0});
  BOOST_TEST(!blind->step(stuck.risk).accepted);
  BOOST_TEST(stuck.risk.loss() == 1);
}

BOOST_AUTO_TEST_CASE(cubic_newton_in_the_whole_space_is_the_dense_minimiser) {
  const EmpiricalRisk risk = regression(two_layers(false));
  const at::Tensor h = materialize(*hessian(risk)).cpu(), g = gradient_of(risk).cpu();
  const auto minimizer = cubic_newton(
      risk, {.cubic_coefficient = 50, .subspace_size = risk.space().size(), .probe_steps = 0});
  const at::Tensor step = moved_by(*minimizer, risk);
  BOOST_TEST(close(step.cpu(), minimize_cubic(h, g, 50).step, {1e-7}));
}

BOOST_AUTO_TEST_CASE(the_learning_rate_scales_the_step) {
  const auto step = [](double rate) {
    const EmpiricalRisk risk = regression(two_layers(false));
    return moved_by(*levenberg_marquardt(risk, {.learning_rate = rate, .damping = 0.5}), risk);
  };
  BOOST_TEST(close(step(0.25), 0.25 * step(1)));
}

BOOST_AUTO_TEST_CASE(wrong_options_are_refused) {
  const EmpiricalRisk risk = regression(two_layers(false));
  BOOST_CHECK_THROW(hessian_free(risk, {.learning_rate = -1}), OptionError);
  BOOST_CHECK_THROW(hessian_free(risk, {.damping = 0}), OptionError);
  BOOST_CHECK_THROW(hessian_free(risk, {.start_decay = 2}), OptionError);
  BOOST_CHECK_THROW(hessian_free(risk, {.max_cg_iterations = 0}), OptionError);
  BOOST_CHECK_THROW(levenberg_marquardt(risk, {.max_attempts = 0}), OptionError);
  BOOST_CHECK_THROW(gradient_regularized_newton(risk, {.rule = DampingRule::kNielsen}),
                    OptionError);
  BOOST_CHECK_THROW(newton_cg(risk, {.radius = 0}), OptionError);
  BOOST_CHECK_THROW(newton_cg(risk, {.acceptance = 0.5}), OptionError);
  BOOST_CHECK_THROW(cubic_newton(risk, {.cubic_coefficient = 0}), OptionError);
  BOOST_CHECK_THROW(cubic_newton(risk, {.subspace_size = 0}), OptionError);
}

BOOST_AUTO_TEST_SUITE_END()
