#include <algorithm>
#include <set>

#include <ATen/ops/cat.h>

#include <curvature/core/space.hpp>

#include "core/check.hpp"

namespace curvature {

Space::Space(std::vector<std::pair<std::string, Shape>> named_shapes) {
  std::set<std::string> names;
  for (auto& [name, shape] : named_shapes) {
    int64_t size = 1;
    for (const int64_t extent : shape) {
      CURVATURE_CHECK(extent >= 0, OptionError, "Space: shape of '{}' is negative; got {}", name,
                      detail::to_string(shape));
      size *= extent;
    }
    CURVATURE_CHECK(names.insert(name).second, OptionError,
                    "Space: name '{}' occurs twice; names must be distinct", name);
    entries_.push_back({std::move(name), std::move(shape), size_, size});
    size_ += size;
  }
}

Space Space::flat(int64_t n) { return Space({{"", {n}}}); }

bool Space::is_flat() const noexcept {
  return entries_.size() == 1 && entries_.front().shape.size() == 1;
}

std::optional<size_t> Space::find(std::string_view name) const {
  for (size_t i = 0; i < entries_.size(); ++i) {
    if (entries_[i].name == name) return i;
  }
  return std::nullopt;
}

Space Space::subspace(const std::vector<size_t>& positions) const {
  std::vector<std::pair<std::string, Shape>> chosen;
  for (const size_t position : positions) {
    chosen.emplace_back(entries_.at(position).name, entries_.at(position).shape);
  }
  return Space(std::move(chosen));
}

std::string Space::describe() const {
  std::vector<std::string> shapes;
  for (const SpaceEntry& entry : entries_) shapes.push_back(detail::to_string(entry.shape));
  return fmt::format("{}", fmt::join(shapes, " + "));
}

TensorList Space::split(const at::Tensor& flat) const {
  TensorList list;
  list.reserve(entries_.size());
  for (const SpaceEntry& entry : entries_) {
    Shape shape = entry.shape;
    shape.push_back(flat.size(1));
    list.push_back(flat.narrow(0, entry.offset, entry.size).reshape(shape));
  }
  return list;
}

at::Tensor Space::join(const TensorList& list) const {
  // Contiguous columns stay contiguous: a transposition costs more than a copy.
  const bool by_columns =
      !list.empty() && list.front().size(-1) > 1 && list.front().stride(-1) != 1;
  TensorList rows;
  rows.reserve(list.size());
  for (size_t i = 0; i < list.size(); ++i) {
    const int64_t columns = list[i].size(-1);
    rows.push_back(by_columns ? list[i].movedim(-1, 0).reshape({columns, entries_[i].size})
                              : list[i].reshape({entries_[i].size, columns}));
  }
  if (by_columns) return (rows.size() == 1 ? rows.front() : at::cat(rows, 1)).t();
  return rows.size() == 1 ? rows.front() : at::cat(rows, 0);
}

bool operator==(const Space& a, const Space& b) {
  return std::equal(a.entries_.begin(), a.entries_.end(), b.entries_.begin(), b.entries_.end(),
                    [](const SpaceEntry& x, const SpaceEntry& y) { return x.shape == y.shape; });
}

}  // namespace curvature
