#include <functional>
#include <string_view>

#include <curvature/layerwise/kfac.hpp>
#include <curvature/layerwise/kfac_estimator.hpp>

#include "core/check.hpp"
#include "layerwise/assemble.hpp"
#include "layerwise/layer_plan.hpp"

namespace curvature {
namespace {

/// Visits all batches of the data.
void for_each_batch(const EmpiricalRisk& risk, const Observer& observer, std::string_view task,
                    const std::function<void(const BatchRisk&)>& visit) {
  const int64_t num_batches = risk.data().num_batches();
  for (int64_t index = 0; index < num_batches; ++index) {
    visit(risk.on(index));
    if (observer) observer({task, index + 1, num_batches});
  }
}

KfacEstimator estimate_factors(const EmpiricalRisk& risk, const KfacOptions& options) {
  KfacEstimator estimator(risk, options);
  for_each_batch(risk, options.observer, "Kronecker factors",
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
  for_each_batch(risk, options.observer, "Eigenvalue correction",
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
