#pragma once

#include <optional>
#include <string>
#include <vector>

#include <curvature/core/linear_operator.hpp>

#include "layerwise/layer_part.hpp"

namespace curvature::detail {

/// A block of a layer-wise curvature: the matrix [W | b] of (a group of) a layer, or one of both
/// alone.
struct LayerBlock {
  std::string kind;
  std::optional<size_t> weight;
  std::optional<size_t> bias;
  WeightLayout layout;
  int64_t group = 0;
  int64_t rows = 0;            ///< outputs m
  bool one_hot = false;        ///< inputs are: A is diagonal
  int64_t weight_columns = 0;  ///< inputs n; 1 for a scale, 0 without weight

  int64_t columns() const { return weight_columns + (bias ? 1 : 0); }
  int64_t size() const { return rows * columns(); }
  /// `[m * columns, K]`, row-major, from tensors `[shape..., K]` of all parameters.
  at::Tensor gather(const TensorList& x) const;
  /// Adds `[m * columns, K]` to tensors `[shape..., K]`.
  void scatter_add(const at::Tensor& matrix, TensorList& x) const;
};

/// The block that a part belongs to, sizes included.
LayerBlock block_of(const LayerPart& part, const Space& space);

/// Blocks on disjoint parts of `space` that cover it: block i acts as the operator `inner[i]` on
/// its matrix. Closed forms: those that every block has. Declared is the weakest symmetry of the
/// blocks, `at_most` the given one.
/// @throws ShapeError if they do not cover it
OperatorPtr layer_blocks(std::vector<LayerBlock> blocks, std::vector<OperatorPtr> inner,
                         Space space, const at::TensorOptions& options, std::string name,
                         Symmetry at_most = Symmetry::kPositiveDefinite);

}  // namespace curvature::detail
