#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/outer.h>

#include <curvature/layerwise/kfac.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/check.hpp"
#include "layerwise/columns_in_basis.hpp"
#include "layerwise/factors.hpp"
#include "operators/support.hpp"

namespace curvature {

OperatorPtr kfac(const EmpiricalRisk& risk, const KfacOptions& options) {
  detail::LayerFactors factors = detail::compute_factors(risk, options);
  std::vector<OperatorPtr> inner;
  for (size_t i = 0; i < factors.pairs.size(); ++i) {
    const auto& [a, b] = factors.pairs[i];
    if (factors.plan.blocks[i].one_hot) {
      const detail::SymmetricEigen eigen = detail::symmetric_eigen(b, "kfac");
      inner.push_back(
          detail::columns_in_basis(eigen.vectors, at::outer(eigen.values.clamp_min(0), a)));
    } else {
      inner.push_back(kronecker({b, a}, Symmetry::kPositiveSemidefinite));
    }
  }
  return detail::assemble(risk, options, std::move(factors.plan), std::move(inner), "KFAC");
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
