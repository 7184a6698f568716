#include <curvature/layerwise/kfac.hpp>
#include <curvature/layerwise/kfac_estimator.hpp>

#include "core/check.hpp"
#include "layerwise/assemble.hpp"
#include "layerwise/layer_plan.hpp"

namespace curvature {
namespace {

KfacEstimator estimate_factors(const EmpiricalRisk& risk, const KfacOptions& options) {
  KfacEstimator estimator(risk, options);
  detail::for_each_batch(risk, options.observer, "Kronecker factors",
                         [&estimator](const BatchRisk& batch) { estimator.update(batch); });
  return estimator;
}

}  // namespace

OperatorPtr kfac(const EmpiricalRisk& risk, const KfacOptions& options) {
  return estimate_factors(risk, options).kfac();
}

OperatorPtr ekfac(const EmpiricalRisk& risk, const KfacOptions& options) {
  CURVATURE_CHECK(options.fisher != Fisher::kForwardOnly, OptionError,
                  "ekfac: forward-only has no gradients to correct with; use kfac");
  KfacEstimator estimator = estimate_factors(risk, options);
  estimator.refresh_basis();
  detail::for_each_batch(risk, options.observer, "Eigenvalue correction",
                         [&estimator](const BatchRisk& batch) { estimator.correct(batch); });
  return estimator.ekfac();
}

std::vector<ParameterTreatment> describe_layers(const EmpiricalRisk& risk) {
  const detail::LayerPlan plan = detail::plan_layers(risk, {});
  std::vector<ParameterTreatment> treatments;
  for (const auto& entry : risk.space().entries()) treatments.push_back({entry.name, "unused"});
  for (const detail::LayerBlock& block : plan.blocks) {
    for (const auto& parameter : {block.weight, block.bias}) {
      if (!parameter) continue;
      treatments[*parameter].treatment =
          block.layout.groups > 1 ? fmt::format("{}, {} groups", block.kind, block.layout.groups)
                                  : block.kind;
      treatments[*parameter].covered = true;
    }
  }
  for (const auto& [parameter, reason] : plan.uncovered) {
    treatments[parameter].treatment = "not covered: " + reason;
  }
  return treatments;
}

}  // namespace curvature
