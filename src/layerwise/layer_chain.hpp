#pragma once

#include <vector>

#include "layerwise/layer_pass.hpp"

namespace curvature::detail {

/// The blocks of a plan in the order in which a batch passes through their layers, if these are a
/// chain: dense layers that are used once, with one position for each example, each of which gets
/// its input from the layer before and from no other, and the last of which alone makes the output.
/// @throws NotSupportedError that names the layer that is none of this
std::vector<size_t> layer_chain(const Space& space, const LayerPlan& plan, const Recorded& recorded,
                                const LayerPass& pass);

}  // namespace curvature::detail
