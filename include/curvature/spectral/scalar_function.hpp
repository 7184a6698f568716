#pragma once

#include <functional>

namespace curvature {

/// f of one eigenvalue. Called from the computing thread, for values within the spectrum.
using ScalarFunction = std::function<double(double)>;

}  // namespace curvature
