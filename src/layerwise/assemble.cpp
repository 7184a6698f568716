#include "layerwise/assemble.hpp"

#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/zeros.h>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>

#include "core/check.hpp"

namespace curvature::detail {

void refuse_uncovered(const EmpiricalRisk& risk, const LayerPlan& plan,
                      const KfacOptions& options) {
  if (options.fallback != Fallback::kRefuse || plan.uncovered.empty()) return;
  const auto& [parameter, reason] = *plan.uncovered.begin();
  throw NotSupportedError(fmt::format(
      "layers: '{}' is not covered by a layer rule: {}; choose a fallback (diagonal or block), or "
      "leave it out of the parameters",
      risk.space().entries()[parameter].name, reason));
}

void check_options(const KfacOptions& options) {
  CURVATURE_CHECK(options.mc_samples > 0, OptionError,
                  "KfacOptions: mc_samples must be positive; got {}", options.mc_samples);
}

std::string layer_name(const Space& space, const LayerBlock& block) {
  return space.entries()[block.weight ? *block.weight : *block.bias].name;
}

at::Tensor fallback_curvature(const EmpiricalRisk& risk, const KfacOptions& options,
                              size_t parameter) {
  const double decay = risk.options().weight_decay;  // in the GGN, but not in layers' curvature
  const EmpiricalRisk alone = risk.with_parameters({risk.space().entries()[parameter].name});
  if (options.fallback == Fallback::kDiagonal) {
    return (*ggn_diagonal(alone)->diagonal() - decay).clamp_min(0);
  }
  const at::Tensor block = materialize(*ggn(alone));
  return block - decay * at::eye(block.size(0), block.options());
}

OperatorPtr assemble(const EmpiricalRisk& risk, const KfacOptions& options, LayerPlan plan,
                     std::vector<OperatorPtr> inner, const std::string& name) {
  const auto tensor_options = risk.parameters().front().options().requires_grad(false);
  const auto add_block = [&](size_t parameter, OperatorPtr operation) {
    LayerBlock block{.kind = "fallback", .weight = parameter, .bias = std::nullopt, .layout = {}};
    block.rows = operation->rows();
    block.weight_columns = 1;
    plan.blocks.push_back(block);
    inner.push_back(std::move(operation));
  };
  for (const size_t parameter : plan.unused) {
    add_block(parameter, curvature::diagonal(
                             at::zeros({risk.parameters()[parameter].numel()}, tensor_options)));
  }
  for (const auto& [parameter, reason] : plan.uncovered) {
    const at::Tensor curvature = fallback_curvature(risk, options, parameter);
    add_block(parameter, curvature.dim() == 1 ? curvature::diagonal(curvature)
                                              : dense(curvature, Symmetry::kPositiveSemidefinite));
  }
  // Second moments: eigenvalues that are positive by rounding only say nothing.
  return layer_blocks(std::move(plan.blocks), std::move(inner), risk.space(), tensor_options, name,
                      Symmetry::kPositiveSemidefinite);
}

}  // namespace curvature::detail
