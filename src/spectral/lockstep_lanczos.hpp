#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/spectral/lanczos.hpp>

namespace curvature::detail {

/// Asked after each step of a run that could go on, with its coefficients so far (no vectors yet);
/// false ends that run.
using KeepGoing = std::function<bool(int64_t run, const LanczosResult& so_far)>;

/// A Lanczos run from each column of `starts` `[n, K]`, as `lanczos` does it, step by step
/// together, so that the operator multiplies up to K columns at once; runs that have ended cost
/// nothing. Keeps K bases. The observer sees the products. @throws as `lanczos`
std::vector<LanczosResult> lockstep_lanczos(const LinearOperator& a, const at::Tensor& starts,
                                            const LanczosOptions& options,
                                            const KeepGoing& keep_going = {});

}  // namespace curvature::detail
