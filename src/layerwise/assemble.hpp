#pragma once

#include <string>
#include <vector>

#include "layerwise/layer_plan.hpp"

namespace curvature::detail {

/// The operator of a plan with an operator for each block; the fallback serves what is not covered.
OperatorPtr assemble(const EmpiricalRisk& risk, const KfacOptions& options, LayerPlan plan,
                     std::vector<OperatorPtr> inner, const std::string& name);

/// The curvature of a parameter that no layer rule covers, weight decay not included: the diagonal
/// `[n]` of the GGN's block or the block `[n, n]`, as the fallback says.
at::Tensor fallback_curvature(const EmpiricalRisk& risk, const KfacOptions& options,
                              size_t parameter);

/// @throws NotSupportedError for a parameter that is not covered, unless the options have a
/// fallback
void refuse_uncovered(const EmpiricalRisk& risk, const LayerPlan& plan, const KfacOptions& options);

/// @throws OptionError
void check_options(const KfacOptions& options);

/// The layer that a block belongs to, for people: the name of its weight, or of its bias.
std::string layer_name(const Space& space, const LayerBlock& block);

}  // namespace curvature::detail
