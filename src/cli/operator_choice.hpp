#pragma once

#include <string>
#include <vector>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/model/empirical_risk.hpp>

#include "cli/options.hpp"

namespace curvature::cli {

/// Names of the operators that `--operator` knows.
std::vector<std::string> operator_names();

/// Checks what options say together, before anything is loaded. Those of layer rules may be for a
/// preconditioner, where `preconditioner` is one made by them.
/// @throws OptionError if two of them contradict each other
void check_operator_options(const OperatorOptions& options, const std::string& preconditioner = "");

/// The operator that the options name, with damping. `observer` sees the batches of a product, or
/// the computation of a diagonal.
OperatorPtr make_operator(const EmpiricalRisk& risk, const OperatorOptions& options,
                          const ProblemOptions& problem, const Observer& observer);

/// Whether the operator is a diagonal, computed when it is made.
bool is_diagonal(const OperatorOptions& options);
/// Whether the operator is made of blocks of layers or parameters, all closed forms known.
bool is_made_of_blocks(const OperatorOptions& options);
/// Products that it takes to build the operator for `size` parameters: an exact Hessian diagonal is
/// not for free.
int64_t products_to_build(const OperatorOptions& options, int64_t size);

}  // namespace curvature::cli
