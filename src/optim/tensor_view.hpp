#pragma once

#include <string>
#include <vector>

#include <curvature/core/space.hpp>
#include <curvature/optim/preconditioned.hpp>

namespace curvature::optim {

/// The axes that a parameter of this shape gets: without those of length 1, joined as options say.
/// A scalar has none.
Shape viewed_shape(const Shape& shape, const ViewOptions& options);

/// A block of a tensor: where it starts along each axis, and how long it is there.
struct Block {
  Shape start;
  Shape size;

  at::Tensor of(const at::Tensor& whole) const;  ///< a view
};

/// The blocks of a tensor whose axes are cut into pieces of at most `block_size`; one if it is 0.
std::vector<Block> blocks_of(const Shape& shape, int64_t block_size);

}  // namespace curvature::optim
