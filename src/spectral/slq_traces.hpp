#pragma once

#include <string_view>
#include <vector>

#include <curvature/spectral/stochastic_lanczos.hpp>

#include "spectral/checked_function.hpp"

namespace curvature::detail {

/// tr f(A) for each function, from the same Krylov spaces.
std::vector<Estimate> slq_traces(const LinearOperator& a,
                                 const std::vector<CheckedFunction>& functions,
                                 const StochasticLanczosOptions& options, std::string_view who);

}  // namespace curvature::detail
