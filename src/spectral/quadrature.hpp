#pragma once

#include <curvature/spectral/density.hpp>
#include <curvature/spectral/lanczos.hpp>

namespace curvature::detail {

/// Gauss quadrature of a Lanczos run: nodes are the Ritz values, weights the squared first
/// components.
Quadrature to_quadrature(const LanczosResult& run);

}  // namespace curvature::detail
