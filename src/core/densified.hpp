#pragma once

#include <utility>

#include <curvature/core/space.hpp>

namespace curvature::detail {

/// Gradients without sparse layouts, which embeddings may produce (`sparse=True`); differentiable.
inline TensorList densified(TensorList gradients) {
  for (at::Tensor& gradient : gradients) {
    if (gradient.defined() && gradient.is_sparse()) gradient = gradient.to_dense();
  }
  return gradients;
}

}  // namespace curvature::detail
