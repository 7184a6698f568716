#pragma once

#include <vector>

#include "layerwise/layer_pass.hpp"

namespace curvature::detail {

/// Kronecker factors of a block, in the risk's dtype.
struct FactorPair {
  at::Tensor a;  ///< `[columns, columns]`, or its diagonal `[columns]` for one-hot inputs
  at::Tensor b;  ///< `[rows, rows]`
};

/// The factors of all blocks of a plan.
struct LayerFactors {
  LayerPlan plan;
  std::vector<FactorPair> pairs;
};

/// One pass over the data.
/// @throws NotSupportedError for parameters that are not covered, if the options refuse them
LayerFactors compute_factors(const EmpiricalRisk& risk, const KfacOptions& options);

/// The operator of a plan with an operator for each block; the fallback serves what is not covered.
OperatorPtr assemble(const EmpiricalRisk& risk, const KfacOptions& options, LayerPlan plan,
                     std::vector<OperatorPtr> inner, const std::string& name);

/// @throws NotSupportedError for a parameter that is not covered, unless the options have a
/// fallback
void refuse_uncovered(const EmpiricalRisk& risk, const LayerPlan& plan, const KfacOptions& options);

/// @throws OptionError
void check_options(const KfacOptions& options);

}  // namespace curvature::detail
