// The natural gradient whose whole matrix is inverted in the space of the data.
#include <boost/test/unit_test.hpp>

#include <curvature/matrix_free/ggn.hpp>

#include "optim/natural_gradient.hpp"

BOOST_AUTO_TEST_SUITE(natural_gradient_data_space_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

BOOST_AUTO_TEST_CASE(the_whole_matrix_is_inverted_in_the_space_of_the_data) {
  // Three weighted examples, one of them without weight: 6 residuals, 26 parameters.
  const auto risk_of = [] {
    const EmpiricalRisk all = regression(two_layers(false), {.weight_decay = 0.02});
    Batch batch = all.data().batch(0);
    batch.inputs[0] = batch.inputs[0].narrow(0, 0, 4);
    batch.targets = batch.targets.narrow(0, 0, 4);
    batch.weights = at::tensor({0.5, 2.0, 0.0, 1.0}, batch.targets.options());
    return all.with_data(batch_dataset({batch}));
  };
  const auto check = [&](Fisher fisher, const OperatorPtr& curvature, double damping) {
    const EmpiricalRisk risk = risk_of();
    NaturalGradientOptions options = plain(0.1);
    options.curvature = FisherApproximation::kFull;
    options.fisher = fisher;
    options.mc_samples = 3;
    const auto minimizer = natural_gradient(risk, options);
    BOOST_TEST(close(moved_by(*minimizer, risk), dense_step(risk_of(), shifted(curvature, damping)),
                     {1e-9}));
  };
  const EmpiricalRisk risk = risk_of();
  check(Fisher::kType2, ggn(risk), 0.1);
  check(Fisher::kEmpirical, empirical_fisher(risk), 0.1 + 0.02);  // which has no weight decay
  check(Fisher::kMonteCarlo, ggn_mc(risk, {.samples = 3, .random = RandomSource().derive(0)}), 0.1);
}

BOOST_AUTO_TEST_CASE(trajectories_of_the_whole_matrix_are_those_of_dense_solutions) {
  for (const DampingRule rule : {DampingRule::kConstant, DampingRule::kNielsen}) {
    const EmpiricalRisk risk = regression(two_layers(false), {.weight_decay = 0.02});
    NaturalGradientOptions options = plain(0.3);
    options.curvature = FisherApproximation::kFull;
    options.damping_rule = rule;
    options.damping_interval = 2;
    const auto minimizer = natural_gradient(risk, options);
    double first_damping = 0, last_damping = 0;
    for (int step = 0; step < 8; ++step) {
      const at::Tensor matrix = materialize(*ggn(risk)), g = gradient_of(risk);
      StepReport report;
      const at::Tensor delta = moved_by(*minimizer, risk, &report);
      const at::Tensor expected = -at::linalg_solve(matrix + *report.damping * eye_of(matrix), g);
      BOOST_TEST(close(delta, expected, {1e-9}));
      if (step == 0) first_damping = *report.damping;
      last_damping = *report.damping;
    }
    BOOST_TEST((first_damping == last_damping) == (rule == DampingRule::kConstant));
  }
}

BOOST_AUTO_TEST_CASE(damping_of_the_whole_matrix_can_be_relative) {
  const EmpiricalRisk risk = regression(two_layers(false), {.weight_decay = 0.02});
  const double mean = (*ggn_diagonal(risk)->trace()) / 26 - 0.02;
  NaturalGradientOptions options = plain(0.1);
  options.curvature = FisherApproximation::kFull;
  options.relative_damping = true;
  const at::Tensor expected = dense_step(risk, shifted(ggn(risk), 0.1 * mean));
  BOOST_TEST(close(first_step(risk, options), expected, {1e-9}));
}

BOOST_AUTO_TEST_CASE(draws_of_the_whole_matrix_differ_from_step_to_step) {
  const EmpiricalRisk risk = regression(two_layers(false));
  NaturalGradientOptions options = plain();
  options.curvature = FisherApproximation::kFull;
  options.fisher = Fisher::kMonteCarlo;
  options.learning_rate = 0;  // stays where it is, so that directions can be told by their length
  const auto minimizer = natural_gradient(risk, options);
  options.learning_rate = 1;
  const auto direction_of = [&](uint64_t step) {
    return dense_step(risk, shifted(ggn_mc(risk, {.random = RandomSource().derive(step)}), 0.1));
  };
  minimizer->step(risk);
  minimizer->set_learning_rate(1);
  const at::Tensor expected = direction_of(1);
  BOOST_TEST(!at::allclose(direction_of(0), expected));
  BOOST_TEST(close(moved_by(*minimizer, risk), expected, {1e-9}));
}

BOOST_AUTO_TEST_SUITE_END()
