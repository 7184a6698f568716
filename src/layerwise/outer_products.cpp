#include "layerwise/outer_products.hpp"

namespace curvature::detail {

/// Measured: with fewer positions many small products cost more than a copy.
constexpr int64_t kManyPositions = 128;

void add_outer_products(const at::Tensor& g, at::Tensor& sum) {
  // Gradients of images come channel by channel, where all rows as one matrix are a copy.
  const bool is_copied = g.stride(1) == 1 && g.stride(2) != 1 && g.size(0) > 1;
  if (!is_copied || g.size(1) < kManyPositions) {
    const at::Tensor rows = g.flatten(0, 1);
    sum.addmm_(rows.t(), rows);
    return;
  }
  for (const at::Tensor& example : g.unbind(0)) sum.addmm_(example.t(), example);
}

}  // namespace curvature::detail
