#pragma once

#include <functional>

#include <curvature/core/progress.hpp>
#include <curvature/matrix_free/ggn.hpp>

#include "matrix_free/per_example.hpp"

namespace curvature::detail {

/// Vectors `[R, C, V]` on the outputs of one example's loss terms.
using Cotangents = std::function<at::Tensor(const Example& example)>;

/// The columns of each term's square root of the loss Hessian, each alone, so that terms do not
/// mix.
Cotangents hessian_cotangents();
/// Draws whose mean second moment is the loss Hessian; those of an example's terms together, or
/// each alone.
Cotangents sampled_cotangents(const MonteCarloOptions& monte_carlo, bool terms_apart);
/// The gradient of each term alone.
Cotangents gradient_cotangents();

/// One vector of an example, pulled back to the parameters.
struct Pullback {
  int64_t vectors_per_example;  ///< V
  double weight;                ///< of the example in the risk, k w; positive
  TensorList gradient;          ///< one tensor per parameter; undefined tensors are zeros
};

/// Pulls the vectors of all examples of this worker back, one forward pass per example and one
/// backward pass per vector; vectors that are zero (of ignored terms) and examples without weight
/// are passed over. `observer` sees the examples under the name `what`.
void for_each_pullback(const EmpiricalRisk& risk, const Cotangents& cotangents,
                       const Observer& observer, const char* what,
                       const std::function<void(const Pullback&)>& visit);

}  // namespace curvature::detail
