#pragma once

#include <vector>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// Blocks down the diagonal, rectangular ones allowed. The spaces are those of the blocks one after
/// the other; entries without a name, or with one that occurs twice, are named by block number.
///
/// In list form nothing is joined or copied. Closed forms: those that every block has.
/// @throws OptionError without blocks, DtypeDeviceError if blocks differ
OperatorPtr block_diagonal(const std::vector<OperatorPtr>& blocks);
/// The same between given spaces: block i acts on the rows after those of blocks 0, ..., i - 1 in
/// the flat view. Where blocks begin and end with entries (one block per parameter, say), nothing
/// is joined in list form.
/// @throws ShapeError if the sizes of the blocks do not add up to those of the spaces
OperatorPtr block_diagonal(const std::vector<OperatorPtr>& blocks, Space domain, Space range);

}  // namespace curvature
