#include <algorithm>

#include "optim/tensor_view.hpp"

namespace curvature::optim {
namespace {

/// Joins axes `from` and later into one.
void join_from(Shape& shape, size_t from) {
  while (shape.size() > from + 1) {
    const int64_t last = shape.back();
    shape.pop_back();
    shape.back() *= last;
  }
}

/// Joins neighbours, from the last to the first, while their product is at most `limit`.
Shape merged(const Shape& shape, int64_t limit) {
  Shape reversed;
  for (auto d = shape.rbegin(); d != shape.rend(); ++d) {
    if (!reversed.empty() && reversed.back() <= limit / *d) {
      reversed.back() *= *d;
    } else {
      reversed.push_back(*d);
    }
  }
  return {reversed.rbegin(), reversed.rend()};
}

}  // namespace

Shape viewed_shape(const Shape& shape, const ViewOptions& options) {
  Shape view = shape;
  std::erase(view, 1);
  if (options.shape == ShapePolicy::kMatrix) join_from(view, 1);
  if (options.shape == ShapePolicy::kSpatial) join_from(view, 2);
  return options.merge_up_to > 0 ? merged(view, options.merge_up_to) : view;
}

at::Tensor Block::of(const at::Tensor& whole) const {
  at::Tensor part = whole;
  for (size_t i = 0; i < size.size(); ++i) {
    part = part.narrow(static_cast<int64_t>(i), start[i], size[i]);
  }
  return part;
}

std::vector<Block> blocks_of(const Shape& shape, int64_t block_size) {
  std::vector<Block> blocks = {{}};
  for (const int64_t length : shape) {
    const int64_t piece = block_size > 0 ? block_size : std::max<int64_t>(length, 1);
    std::vector<Block> longer;
    for (const Block& block : blocks) {
      for (int64_t start = 0; start < length; start += piece) {
        longer.push_back(block);
        longer.back().start.push_back(start);
        longer.back().size.push_back(std::min(piece, length - start));
      }
    }
    blocks = std::move(longer);
  }
  return blocks;
}

}  // namespace curvature::optim
