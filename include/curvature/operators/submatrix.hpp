#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// A[rows, cols] of the flat view, in the order of the indices, between plain vectors. A product
/// costs one of A unless A is dense, diagonal or low-rank, for which it is built.
/// @throws OptionError for an index out of range or listed twice
OperatorPtr submatrix(const OperatorPtr& a, const std::vector<int64_t>& rows,
                      const std::vector<int64_t>& cols);

/// The rows and columns of the named entries of the spaces (parameters, say), in the given order.
/// @throws OptionError for a name that is unknown or listed twice
OperatorPtr submatrix_by_name(const OperatorPtr& a, const std::vector<std::string>& rows,
                              const std::vector<std::string>& cols);

}  // namespace curvature
