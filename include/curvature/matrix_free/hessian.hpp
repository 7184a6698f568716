#pragma once

#include <curvature/core/linear_operator.hpp>
#include <curvature/matrix_free/options.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature {

/// Hessian of the risk, weight decay included. Symmetric, in general indefinite.
///
/// Keeps the graph of each batch's gradient within the memory budget, so that a further product is
/// one backward pass through it (Pearlmutter 1994, reverse over reverse).
/// @throws StaleOperatorError from products after the parameters changed
OperatorPtr hessian(const EmpiricalRisk& risk, const MatrixFreeOptions& options = {});

/// The Hessian's diagonal as an operator. Costs D Hessian products; there is no cheaper exact way.
OperatorPtr hessian_diagonal(const EmpiricalRisk& risk, const MatrixFreeOptions& options = {});

}  // namespace curvature
