#pragma once

#include <vector>

#include <curvature/core/linear_operator.hpp>

/// The lazy results of the algebra; which form a result takes is decided in algebra.cpp.
namespace curvature::detail {

/// sum_i c_i A_i + shift I; see SumStructure for what is allowed.
OperatorPtr make_sum(OperatorSpec spec, SumStructure terms);
/// A_1 ... A_k, k >= 2.
OperatorPtr make_product(OperatorSpec spec, std::vector<OperatorPtr> factors);
OperatorPtr make_adjoint(OperatorPtr original);

}  // namespace curvature::detail
