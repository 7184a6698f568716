#include <curvature/layerwise/damping.hpp>
#include <curvature/layerwise/kfac.hpp>
#include <curvature/layerwise/kfac_estimator.hpp>
#include <curvature/operators/algebra.hpp>

#include "operations.hpp"

namespace curvature::benchmark {
namespace {

constexpr double kDamping = 1e-3;

/// The parameters of linear and convolution layers alone, which every K-FAC knows.
std::vector<std::string> layer_parameters(const EmpiricalRisk& risk) {
  std::vector<std::string> names;
  for (const ParameterTreatment& parameter : describe_layers(risk)) {
    const std::string& kind = parameter.treatment;
    if (kind.starts_with("linear") || kind.starts_with("convolution")) {
      names.push_back(parameter.name);
    }
  }
  return names;
}

/// The risk of these, whose layers have been found already.
EmpiricalRisk risk_of_layers(const EmpiricalRisk& risk) {
  EmpiricalRisk layers = risk.with_parameters(layer_parameters(risk));
  describe_layers(layers);
  return layers;
}

/// The search for layers, which other rows leave out: once for a risk, whatever is made of it.
void find_layers(const Problem& problem, const Recorder& record) {
  const std::vector<std::string> names = layer_parameters(problem.risk);
  record.measure(
      "kfac-layers", "setup", [&] { describe_layers(problem.risk.with_parameters(names)); },
      [] {
        return Json{{"note", "once for a risk"}};
      });
}

Operation kfac_operation(const std::string& name, Fisher fisher) {
  return {name, [=](const Problem& problem, const Recorder& record) {
            const EmpiricalRisk risk = risk_of_layers(problem.risk);
            OperatorPtr a;
            const auto factors = [&] {
              a.reset();
              a = kfac(risk, {.fisher = fisher});
            };
            record.measure(name, "setup", factors);
            record.product(name, *a);
            if (fisher != Fisher::kMonteCarlo) return;
            // The root of the damping is what each factor gets.
            const DampingOptions damping = {.damping = kDamping * kDamping,
                                            .kind = KroneckerDamping::kPerFactor};
            OperatorPtr inverse;
            record.measure(name + "-inverse", "setup", [&] {
              inverse.reset();
              inverse = damped_inverse(a, damping);
            });
            record.product(name + "-inverse", *inverse);
          }};
}

void ekfac_operation(const Problem& problem, const Recorder& record) {
  const EmpiricalRisk risk = risk_of_layers(problem.risk);
  const BatchRisk batch = risk.on(0);
  const KfacOptions options = {.fisher = Fisher::kMonteCarlo};
  KfacEstimator estimator(risk, options);
  record.measure("ekfac-mc", "setup-factors", [&] {
    estimator = KfacEstimator(risk, options);
    estimator.update(batch);
  });
  record.measure("ekfac-mc", "setup-eigenvectors", [&] { estimator.refresh_basis(); });
  OperatorPtr a;
  record.measure("ekfac-mc", "setup-correction", [&] {
    estimator.correct(batch);
    a = estimator.ekfac();
  });
  record.product("ekfac-mc", *a);
  OperatorPtr inverse;  // a division of eigenvalues, which others leave to the products
  record.measure("ekfac-mc-inverse", "first-product", [&] {
    inverse = shifted(a, kDamping)->inverse();
    inverse->apply(probe(*inverse));
  });
  record.product("ekfac-mc-inverse", *inverse);
}

}  // namespace

std::vector<Operation> layerwise_operations() {
  return {kfac_operation("kfac-type-2", Fisher::kType2),
          kfac_operation("kfac-mc", Fisher::kMonteCarlo),
          kfac_operation("kfac-empirical", Fisher::kEmpirical),
          {"ekfac-mc", ekfac_operation},
          {"kfac-layers", find_layers}};
}

}  // namespace curvature::benchmark
