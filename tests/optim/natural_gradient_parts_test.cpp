// Natural gradients whose statistics, or whose exact model, are those of a part of the batch.
#include <boost/test/unit_test.hpp>

#include <functional>
#include <map>
#include <set>

#include <curvature/matrix_free/ggn.hpp>

#include "optim/natural_gradient.hpp"
#include "support/optimizer_laws.hpp"

BOOST_AUTO_TEST_SUITE(natural_gradient_parts_test)

using namespace curvature;
using namespace curvature::optim;
using namespace curvature::testing;

namespace {

/// The batches of `count` of a risk's nine examples, all that there are.
std::vector<EmpiricalRisk> parts_of(const EmpiricalRisk& risk, int64_t count) {
  const Batch all = risk.data().batch(0);
  std::vector<EmpiricalRisk> parts;
  for (int64_t mask = 0; mask < 512; ++mask) {
    std::vector<int64_t> chosen;
    for (int64_t n = 0; n < 9; ++n) {
      if (((mask >> n) & 1) != 0) chosen.push_back(n);
    }
    if (static_cast<int64_t>(chosen.size()) != count) continue;
    const at::Tensor rows = at::tensor(chosen).to(all.targets.device());
    parts.push_back(risk.with_data(tensor_dataset({all.inputs[0].index_select(0, rows)},
                                                  all.targets.index_select(0, rows), count)));
  }
  return parts;
}

/// The only one of the parts whose step is this one.
size_t part_that_explains(const at::Tensor& step, const std::vector<EmpiricalRisk>& parts,
                          const std::function<at::Tensor(const EmpiricalRisk&)>& step_of) {
  std::vector<size_t> found;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (at::allclose(step_of(parts[i]), step, 1e-8, 1e-12)) found.push_back(i);
  }
  BOOST_TEST_REQUIRE(found.size() == 1u);
  return found.front();
}

}  // namespace

BOOST_AUTO_TEST_CASE(statistics_of_a_part_are_those_of_its_examples) {
  // Nine examples, a third of them, rounded up; the gradient is that of all.
  using Make = std::function<OperatorPtr(const EmpiricalRisk&)>;
  const std::vector<std::pair<FisherApproximation, Make>> curvatures = {
      {FisherApproximation::kKfac, [](const EmpiricalRisk& part) { return kfac(part); }},
      {FisherApproximation::kEkfac, [](const EmpiricalRisk& part) { return ekfac(part); }},
      {FisherApproximation::kFull, [](const EmpiricalRisk& part) { return ggn(part); }}};
  for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
    const double scale = reduction == Reduction::kSum ? 3 : 1;
    for (const auto& [curvature, make] : curvatures) {
      std::set<size_t> chosen;
      for (const uint64_t seed : {1, 2, 3}) {
        const EmpiricalRisk risk = regression(two_layers(false), {.reduction = reduction});
        const at::Tensor g = gradient_of(risk);
        const std::vector<EmpiricalRisk> parts = parts_of(risk, 3);
        std::map<const void*, at::Tensor> step_of;
        for (const EmpiricalRisk& part : parts) {
          const at::Tensor matrix = scale * materialize(*make(part));
          step_of[&part] = -at::linalg_solve(matrix + 0.1 * eye_of(matrix), g);
        }
        NaturalGradientOptions options = plain();
        options.curvature = curvature;
        options.statistics_fraction = 0.3;
        options.random = RandomSource(seed);
        const at::Tensor step = first_step(risk, options);
        chosen.insert(part_that_explains(
            step, parts, [&](const EmpiricalRisk& part) { return step_of.at(&part); }));
      }
      BOOST_TEST(chosen.size() > 1u);
    }
  }
}

BOOST_AUTO_TEST_CASE(kfoc_of_a_part_is_scaled_like_a_sum) {
  const EmpiricalRisk risk = regression(two_layers(false), {.reduction = Reduction::kSum});
  const at::Tensor g = gradient_of(risk);
  const std::vector<EmpiricalRisk> parts = parts_of(risk, 8);
  std::map<const void*, at::Tensor> step_of;
  for (const EmpiricalRisk& part : parts) {
    const at::Tensor matrix = 9.0 / 8 * materialize(*kfoc(part));
    step_of[&part] = -at::linalg_solve(matrix + 0.1 * eye_of(matrix), g);
  }
  NaturalGradientOptions options = plain();
  options.curvature = FisherApproximation::kKfoc;
  options.statistics_fraction = 0.85;
  const at::Tensor step = first_step(risk, options);
  part_that_explains(step, parts, [&](const EmpiricalRisk& part) { return step_of.at(&part); });
}

BOOST_AUTO_TEST_CASE(the_model_of_a_part_is_that_of_its_examples) {
  for (const Reduction reduction : {Reduction::kMean, Reduction::kSum}) {
    const double scale = reduction == Reduction::kSum ? 9.0 / 2 : 1, decay = 0.02, damping = 0.05;
    const EmpiricalRisk risk =
        regression(two_layers(false), {.reduction = reduction, .weight_decay = decay});
    const at::Tensor g = gradient_of(risk);
    const at::Tensor direction = dense_step(risk, shifted(kfac(risk), damping + decay));
    const std::vector<EmpiricalRisk> parts = parts_of(risk, 2);
    std::map<const void*, at::Tensor> step_of;
    for (const EmpiricalRisk& part : parts) {
      const at::Tensor with_decay = materialize(*ggn(part));
      const at::Tensor matrix = scale * (with_decay - decay * eye_of(with_decay));
      const double curvature = direction.dot(matrix.mv(direction)).item<double>() +
                               (decay + damping) * direction.dot(direction).item<double>();
      step_of[&part] = -direction.dot(g).item<double>() / curvature * direction;
    }
    NaturalGradientOptions options = plain(damping);
    options.step_size = StepSize::kQuadraticModel;
    options.model_fraction = 0.2;
    const at::Tensor step = first_step(risk, options);
    part_that_explains(step, parts, [&](const EmpiricalRisk& part) { return step_of.at(&part); });
  }
}

BOOST_AUTO_TEST_CASE(parts_are_drawn_anew_and_all_of_a_batch_is_no_part) {
  const auto trajectory = [](double statistics, double model, Fisher fisher) {
    const EmpiricalRisk risk = regression(two_layers(false));
    NaturalGradientOptions options = plain(0.5);
    options.step_size = StepSize::kQuadraticModel;
    options.damping_rule = DampingRule::kLevenbergMarquardt;
    options.damping_interval = 2;
    options.fisher = fisher;
    options.statistics_fraction = statistics;
    options.model_fraction = model;
    const auto minimizer = natural_gradient(risk, options);
    for (int step = 0; step < 5; ++step) minimizer->step(risk);
    return parameters_of(risk);
  };
  for (const Fisher fisher : {Fisher::kType2, Fisher::kMonteCarlo}) {
    const at::Tensor whole = trajectory(1, 1, fisher);
    BOOST_TEST(at::equal(trajectory(0.99, 0.99, fisher), whole));  // rounded up to nine of nine
    BOOST_TEST(!at::allclose(trajectory(0.5, 1, fisher), whole));
    BOOST_TEST(!at::allclose(trajectory(1, 0.5, fisher), whole));
    BOOST_TEST(at::equal(trajectory(0.5, 0.25, fisher), trajectory(0.5, 0.25, fisher)));
  }
  // The same point, another step, other examples.
  const EmpiricalRisk risk = regression(two_layers(false));
  NaturalGradientOptions options = plain();
  options.curvature = FisherApproximation::kFull;
  options.statistics_fraction = 0.3;
  const at::Tensor first = first_step(regression(two_layers(false)), options);
  options.learning_rate = 0;
  const auto minimizer = natural_gradient(risk, options);
  minimizer->step(risk);
  minimizer->set_learning_rate(1);
  BOOST_TEST(!at::allclose(moved_by(*minimizer, risk), first));
}

BOOST_AUTO_TEST_CASE(steps_from_parts_are_a_minimizer) {
  check_minimizer_laws(
      [](const EmpiricalRisk& risk) {
        return natural_gradient(risk, {.learning_rate = 1,
                                       .step_size = StepSize::kQuadraticModel,
                                       .damping = 1,
                                       .damping_rule = DampingRule::kLevenbergMarquardt,
                                       .damping_interval = 2,
                                       .reject_increase = true,
                                       .statistics_fraction = 0.5,
                                       .model_fraction = 0.75,
                                       .refresh_interval = 3});
      },
      {.steps = 100});
}

BOOST_AUTO_TEST_SUITE_END()
