#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace curvature {

/// An element of a space: one tensor per entry.
using TensorList = std::vector<at::Tensor>;
/// Extents, outermost first.
using Shape = std::vector<int64_t>;

/// One named shape of a space, and where it lies in the flat view.
struct SpaceEntry {
  std::string name;    ///< unique in its space
  Shape shape;         ///< without the axis of columns
  int64_t offset = 0;  ///< first row of the flat view
  int64_t size = 0;    ///< number of rows
};

/// A vector space whose elements are lists of tensors: an ordered list of named shapes.
///
/// The flat view of an element joins its tensors in order, each flattened row-major. A parameter
/// layout is a space whose names are the parameters' names; `Space::flat(n)` has one shape `[n]`.
class Space {
 public:
  /// The space of dimension 0.
  Space() = default;
  /// Spaces of names and shapes. @throws OptionError for a negative extent or a repeated name.
  explicit Space(std::vector<std::pair<std::string, Shape>> named_shapes);
  /// The space of plain vectors of length `n`.
  static Space flat(int64_t n);

  /// Dimension: the number of rows of the flat view.
  int64_t size() const noexcept { return size_; }
  /// The named shapes in order.
  const std::vector<SpaceEntry>& entries() const noexcept { return entries_; }
  /// Whether this is a space of plain vectors, as `flat` makes it.
  bool is_flat() const noexcept;
  /// Position of the entry called `name`.
  std::optional<size_t> find(std::string_view name) const;
  /// The entries at `positions`, in that order, as a space of their own.
  Space subspace(const std::vector<size_t>& positions) const;
  /// `[3, 4] + [4]`
  std::string describe() const;

  /// Views a matrix `[size, K]` as one tensor `[shape..., K]` per entry (no copy if contiguous).
  TensorList split(const at::Tensor& flat) const;
  /// Joins tensors `[shape..., K]` into `[size, K]`; the inverse of `split`.
  at::Tensor join(const TensorList& list) const;

  /// Spaces are equal if their shapes are; names are labels.
  friend bool operator==(const Space& a, const Space& b);

 private:
  std::vector<SpaceEntry> entries_;
  int64_t size_ = 0;
};

}  // namespace curvature
