#include <algorithm>
#include <cmath>
#include <set>

#include <ATen/ops/cat.h>

#include <curvature/operators/block_diagonal.hpp>

#include "core/check.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

/// The entries of a space that one block acts on.
struct Run {
  size_t first;
  Space entries;
};

/// One run per block, or nothing if a block begins or ends inside an entry.
std::vector<Run> match_entries(const Space& space, const std::vector<int64_t>& sizes) {
  const auto& entries = space.entries();
  std::vector<Run> runs;
  size_t next = 0;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const bool is_last = i + 1 == sizes.size();
    std::vector<size_t> positions;
    int64_t left = sizes[i];
    do {
      if (next == entries.size() || entries[next].size > left) return {};
      left -= entries[next].size;
      positions.push_back(next++);
    } while (left > 0 || (is_last && next < entries.size()));
    runs.push_back({positions.front(), space.subspace(positions)});
  }
  return runs;
}

enum class Side { kDomain, kRange };

const Space& space_of(const LinearOperator& a, Side side) {
  return side == Side::kDomain ? a.spec().domain : a.spec().range;
}

std::vector<int64_t> sizes_of(const std::vector<OperatorPtr>& blocks, Side side) {
  std::vector<int64_t> sizes;
  for (const OperatorPtr& block : blocks) sizes.push_back(space_of(*block, side).size());
  return sizes;
}

/// The spaces of the blocks one after the other, under distinct names.
Space concatenate(const std::vector<OperatorPtr>& blocks, Side side) {
  std::set<std::string> taken;
  std::vector<std::pair<std::string, Shape>> shapes;
  for (size_t i = 0; i < blocks.size(); ++i) {
    for (const SpaceEntry& entry : space_of(*blocks[i], side).entries()) {
      std::string name = entry.name;
      if (name.empty()) name = fmt::format("block{}", i);
      while (!taken.insert(name).second) name += fmt::format(".block{}", i);
      shapes.emplace_back(std::move(name), entry.shape);
    }
  }
  return Space(std::move(shapes));
}

class BlockDiagonal final : public LinearOperator {
 public:
  BlockDiagonal(OperatorSpec spec, std::vector<OperatorPtr> blocks)
      : LinearOperator(std::move(spec)),
        blocks_(std::move(blocks)),
        domain_runs_(match_entries(this->spec().domain, sizes_of(blocks_, Side::kDomain))),
        range_runs_(match_entries(this->spec().range, sizes_of(blocks_, Side::kRange))) {}

  std::string describe() const override {
    return fmt::format("BlockDiagonal({}{})", blocks_.front()->describe(),
                       blocks_.size() == 1 ? "" : fmt::format(", ... {} blocks", blocks_.size()));
  }
  Structure structure() const override { return BlockDiagonalStructure{blocks_}; }

  std::optional<at::Tensor> diagonal() const override {
    if (!has_square_blocks()) return std::nullopt;
    return join([](const LinearOperator& block) { return block.diagonal(); });
  }
  std::optional<at::Tensor> eigenvalues() const override {
    if (!is_symmetric()) return std::nullopt;
    return join([](const LinearOperator& block) { return block.eigenvalues(); });
  }
  std::optional<double> trace() const override {
    if (!has_square_blocks()) return std::nullopt;
    double total = 0;
    for (const OperatorPtr& block : blocks_) {
      const auto part = block->trace();
      if (!part) return std::nullopt;
      total += *part;
    }
    return total;
  }
  std::optional<double> frobenius_norm() const override {
    double norm = 0;
    for (const OperatorPtr& block : blocks_) {
      const auto part = block->frobenius_norm();
      if (!part) return std::nullopt;
      norm = std::hypot(norm, *part);
    }
    return norm;
  }
  std::optional<LogDeterminant> log_determinant() const override {
    if (!has_square_blocks()) return std::nullopt;
    LogDeterminant total{1, 0};
    for (const OperatorPtr& block : blocks_) {
      const auto part = block->log_determinant();
      if (!part) return std::nullopt;
      total = {total.sign * part->sign, total.log_abs + part->log_abs};
    }
    return total;
  }
  OperatorPtr function(const SpectralFunction& f) const override {
    if (!is_symmetric()) return nullptr;
    return map_blocks(spec().domain, spec().range,
                      [&](const LinearOperator& block) { return block.function(f); });
  }
  OperatorPtr inverse() const override {
    if (!has_square_blocks()) return nullptr;
    return map_blocks(spec().range, spec().domain,
                      [](const LinearOperator& block) { return block.inverse(); });
  }
  OperatorPtr square_root_factor() const override {
    if (!is_symmetric()) return nullptr;
    return map_blocks(std::nullopt, spec().range,
                      [](const LinearOperator& block) { return block.square_root_factor(); });
  }

 private:
  bool has_square_blocks() const {
    return std::all_of(blocks_.begin(), blocks_.end(),
                       [](const OperatorPtr& block) { return block->rows() == block->cols(); });
  }
  /// The parts joined, if every block has one.
  template <class Part>
  std::optional<at::Tensor> join(Part part) const {
    TensorList parts;
    for (const OperatorPtr& block : blocks_) {
      const auto tensor = part(*block);
      if (!tensor) return std::nullopt;
      parts.push_back(*tensor);
    }
    return at::cat(parts);
  }
  /// The block-diagonal operator of mapped blocks, if every block has one; its domain is by default
  /// that of the blocks.
  template <class Map>
  OperatorPtr map_blocks(const std::optional<Space>& domain, const Space& range, Map map) const {
    std::vector<OperatorPtr> mapped;
    for (const OperatorPtr& block : blocks_) {
      mapped.push_back(map(*block));
      if (!mapped.back()) return nullptr;
    }
    return block_diagonal(mapped, domain ? *domain : concatenate(mapped, Side::kDomain), range);
  }

  /// Applies `product` block by block; each block sees its own entries in the form of its space.
  template <class Product>
  TensorList apply_list(const TensorList& x, Side from, Product product) const {
    const auto& source = from == Side::kDomain ? domain_runs_ : range_runs_;
    const auto& target = from == Side::kDomain ? range_runs_ : domain_runs_;
    const Side to = from == Side::kDomain ? Side::kRange : Side::kDomain;
    TensorList y;
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const auto begin = x.begin() + static_cast<std::ptrdiff_t>(source[i].first);
      const TensorList operand(
          begin, begin + static_cast<std::ptrdiff_t>(source[i].entries.entries().size()));
      const bool same_form = space_of(*blocks_[i], from) == source[i].entries &&
                             space_of(*blocks_[i], to) == target[i].entries;
      const TensorList part =
          same_form
              ? product(*blocks_[i], operand)
              : target[i].entries.split(product(*blocks_[i], source[i].entries.join(operand)));
      y.insert(y.end(), part.begin(), part.end());
    }
    return y;
  }
  template <class Product>
  at::Tensor apply_rows(const at::Tensor& x, Side from, Product product) const {
    TensorList y;
    int64_t row = 0;
    for (const OperatorPtr& block : blocks_) {
      const int64_t size = space_of(*block, from).size();
      y.push_back(product(*block, x.narrow(0, row, size)));
      row += size;
    }
    return at::cat(y);
  }

  TensorList apply_impl(const TensorList& x) const override {
    const auto product = [](const LinearOperator& a, const auto& v) { return a.apply(v); };
    if (!domain_runs_.empty() && !range_runs_.empty()) {
      return apply_list(x, Side::kDomain, product);
    }
    return spec().range.split(apply_rows(spec().domain.join(x), Side::kDomain, product));
  }
  TensorList apply_adjoint_impl(const TensorList& y) const override {
    const auto product = [](const LinearOperator& a, const auto& v) { return a.apply_adjoint(v); };
    if (!domain_runs_.empty() && !range_runs_.empty()) {
      return apply_list(y, Side::kRange, product);
    }
    return spec().domain.split(apply_rows(spec().range.join(y), Side::kRange, product));
  }
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return apply_rows(x, Side::kDomain,
                      [](const LinearOperator& a, const at::Tensor& v) { return a.apply(v); });
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return apply_rows(y, Side::kRange, [](const LinearOperator& a, const at::Tensor& v) {
      return a.apply_adjoint(v);
    });
  }

  std::vector<OperatorPtr> blocks_;
  std::vector<Run> domain_runs_;
  std::vector<Run> range_runs_;
};

void check_blocks(const std::vector<OperatorPtr>& blocks) {
  CURVATURE_CHECK(!blocks.empty(), OptionError, "block_diagonal: needs at least one block");
  for (const OperatorPtr& block : blocks) {
    detail::check_not_null(block, "block_diagonal");
    detail::check_same_dtype_device(*blocks.front(), *block, "block_diagonal");
  }
}

int64_t total(const std::vector<int64_t>& sizes) {
  int64_t sum = 0;
  for (const int64_t size : sizes) sum += size;
  return sum;
}

}  // namespace

OperatorPtr block_diagonal(const std::vector<OperatorPtr>& blocks) {
  check_blocks(blocks);
  return block_diagonal(blocks, concatenate(blocks, Side::kDomain),
                        concatenate(blocks, Side::kRange));
}

OperatorPtr block_diagonal(const std::vector<OperatorPtr>& blocks, Space domain, Space range) {
  check_blocks(blocks);
  const int64_t rows = total(sizes_of(blocks, Side::kRange));
  const int64_t cols = total(sizes_of(blocks, Side::kDomain));
  CURVATURE_CHECK(rows == range.size() && cols == domain.size(), ShapeError,
                  "block_diagonal: the blocks do not fit the spaces; expected {}x{}, got {}x{}",
                  range.size(), domain.size(), rows, cols);
  Symmetry symmetry = domain == range ? Symmetry::kPositiveDefinite : Symmetry::kGeneral;
  for (const OperatorPtr& block : blocks) symmetry = std::min(symmetry, block->spec().symmetry);
  const OperatorSpec& like = blocks.front()->spec();
  return std::make_shared<BlockDiagonal>(
      OperatorSpec{std::move(domain), std::move(range), like.dtype, like.device, symmetry}, blocks);
}

}  // namespace curvature
