#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// Counts columns multiplied, by A and by A^T together; shared, thread-safe.
using ProductCounter = std::shared_ptr<std::atomic<int64_t>>;

/// `a` itself, counting its products in `counter`. Closed forms pass through, uncounted; the
/// structure does not, so that algebra does not look past the counter.
/// @throws OptionError if `counter` is null
OperatorPtr counting(OperatorPtr a, ProductCounter counter);

/// `a` between other spaces of the same sizes: the same map in the flat view. The result is
/// symmetric if `a` is and both spaces are equal.
/// @throws ShapeError if sizes differ
OperatorPtr with_spaces(OperatorPtr a, Space domain, Space range);

/// `a` with a symmetry that the caller knows and the library cannot see, e.g. of a product
/// A B A^T. It is trusted.
/// @throws ShapeError if domain and range differ
OperatorPtr declare_symmetry(OperatorPtr a, Symmetry symmetry);

}  // namespace curvature
