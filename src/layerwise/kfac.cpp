#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/zeros.h>

#include <curvature/layerwise/kfac.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/check.hpp"
#include "layerwise/factors.hpp"

namespace curvature {

OperatorPtr kfac(const EmpiricalRisk& risk, const KfacOptions& options) {
  detail::LayerFactors factors = detail::compute_factors(risk, options);
  std::vector<OperatorPtr> inner;
  for (const detail::FactorPair& pair : factors.pairs) {
    inner.push_back(kronecker({pair.b, pair.a}, Symmetry::kPositiveSemidefinite));
  }
  return detail::assemble(risk, options, std::move(factors.plan), std::move(inner), "KFAC");
}

std::vector<ParameterTreatment> describe_layers(const EmpiricalRisk& risk) {
  const detail::LayerPlan plan = detail::plan_layers(risk, /*separate_bias=*/false);
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
