#include <variant>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <curvature/operators/block_diagonal.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/low_rank.hpp>
#include <curvature/operators/submatrix.hpp>

#include "core/check.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

/// Rows and columns of the flat view, and what the submatrix is.
struct Selection {
  at::Tensor rows;
  at::Tensor cols;
  bool is_principal;  ///< rows and columns are the same
  OperatorSpec spec;
};

/// Submatrices that are better built than wrapped; null for all others.
struct BuildSubmatrix {
  const Selection& selection;

  OperatorPtr operator()(const DenseStructure& a) const {
    return dense(a.matrix.index_select(0, selection.rows).index_select(1, selection.cols),
                 selection.spec.domain, selection.spec.range, selection.spec.symmetry);
  }
  OperatorPtr operator()(const ScaledIdentityStructure& a) const {
    const auto options =
        at::TensorOptions().dtype(selection.spec.dtype).device(selection.spec.device);
    if (a.scale == 0) return zero(selection.spec.domain, selection.spec.range, options);
    if (!selection.is_principal) return nullptr;
    return scaled_identity(a.scale, selection.spec.domain, options);
  }
  OperatorPtr operator()(const DiagonalStructure& a) const {
    if (!selection.is_principal) return nullptr;
    return diagonal(a.diagonal.index_select(0, selection.rows), selection.spec.domain);
  }
  OperatorPtr operator()(const LowRankStructure& a) const {
    if (!selection.is_principal) return nullptr;
    return low_rank_plus_diagonal(a.diagonal.index_select(0, selection.rows),
                                  a.factor.index_select(0, selection.rows), a.coefficients,
                                  selection.spec.domain, selection.spec.symmetry);
  }
  template <class Other>
  OperatorPtr operator()(const Other&) const {
    return nullptr;
  }
};

std::string describe_submatrix(const LinearOperator& part, const LinearOperator& whole) {
  return fmt::format("Submatrix({}x{} of {})", part.rows(), part.cols(), whole.describe());
}

/// A[rows, cols] by scattering, a full product, and gathering.
class IndexSubmatrix final : public FlatOperator {
 public:
  IndexSubmatrix(Selection selection, OperatorPtr whole)
      : FlatOperator(std::move(selection.spec)),
        rows_(std::move(selection.rows)),
        cols_(std::move(selection.cols)),
        is_principal_(selection.is_principal),
        whole_(std::move(whole)) {}

  std::string describe() const override { return describe_submatrix(*this, *whole_); }
  std::optional<at::Tensor> diagonal() const override {
    const auto whole = is_principal_ ? whole_->diagonal() : std::nullopt;
    if (!whole) return std::nullopt;
    return whole->index_select(0, rows_);
  }
  std::optional<double> trace() const override {
    const auto entries = diagonal();
    if (!entries) return std::nullopt;
    return entries->sum(at::kDouble).item<double>();
  }

 private:
  static at::Tensor scatter(const at::Tensor& x, const at::Tensor& indices, int64_t size) {
    return at::zeros({size, x.size(1)}, x.options()).index_copy_(0, indices, x);
  }
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return whole_->apply(scatter(x, cols_, whole_->cols())).index_select(0, rows_);
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return whole_->apply_adjoint(scatter(y, rows_, whole_->rows())).index_select(0, cols_);
  }

  at::Tensor rows_;
  at::Tensor cols_;
  bool is_principal_;
  OperatorPtr whole_;
};

/// Whole entries of the spaces, in list form.
class EntrySubmatrix final : public LinearOperator {
 public:
  EntrySubmatrix(OperatorSpec spec, OperatorPtr whole, std::vector<size_t> rows,
                 std::vector<size_t> cols, Selection selection)
      : LinearOperator(std::move(spec)),
        whole_(whole),
        rows_(std::move(rows)),
        cols_(std::move(cols)),
        flat_(std::make_shared<IndexSubmatrix>(std::move(selection), std::move(whole))) {}

  std::string describe() const override { return describe_submatrix(*this, *whole_); }
  std::optional<at::Tensor> diagonal() const override { return flat_->diagonal(); }
  std::optional<double> trace() const override { return flat_->trace(); }

 private:
  TensorList scatter(const TensorList& x, const std::vector<size_t>& positions,
                     const Space& space) const {
    TensorList full(space.entries().size());
    for (size_t i = 0; i < positions.size(); ++i) full[positions[i]] = x[i];
    for (size_t i = 0; i < full.size(); ++i) {
      if (full[i].defined()) continue;
      Shape shape = space.entries()[i].shape;
      shape.push_back(x.front().size(-1));
      full[i] = at::zeros(shape, detail::options_of(*this));
    }
    return full;
  }
  static TensorList gather(const TensorList& full, const std::vector<size_t>& positions) {
    TensorList y;
    for (const size_t position : positions) y.push_back(full[position]);
    return y;
  }
  TensorList apply_impl(const TensorList& x) const override {
    return gather(whole_->apply(scatter(x, cols_, whole_->spec().domain)), rows_);
  }
  TensorList apply_adjoint_impl(const TensorList& y) const override {
    return gather(whole_->apply_adjoint(scatter(y, rows_, whole_->spec().range)), cols_);
  }

  OperatorPtr whole_;
  std::vector<size_t> rows_;
  std::vector<size_t> cols_;
  std::shared_ptr<const IndexSubmatrix> flat_;  // the same in the flat view, for closed forms
};

at::Tensor checked_indices(const std::vector<int64_t>& indices, int64_t size, const char* what,
                           const LinearOperator& a) {
  std::vector<bool> seen(static_cast<size_t>(size));
  for (const int64_t i : indices) {
    CURVATURE_CHECK(i >= 0 && i < size && !seen[static_cast<size_t>(i)], OptionError,
                    "submatrix: {} index {} of {} is out of range or repeated; expected distinct "
                    "numbers from 0 to {}",
                    what, i, a.describe(), size - 1);
    seen[static_cast<size_t>(i)] = true;
  }
  return at::tensor(indices, at::TensorOptions().dtype(at::kLong)).to(a.spec().device);
}

std::vector<size_t> find_entries(const std::vector<std::string>& names, const Space& space,
                                 const LinearOperator& a) {
  CURVATURE_CHECK(!names.empty(), OptionError, "submatrix_by_name: got no names");
  std::vector<size_t> positions;
  std::vector<bool> seen(space.entries().size());
  for (const std::string& name : names) {
    const auto position = space.find(name);
    CURVATURE_CHECK(position && !seen[*position], OptionError,
                    "submatrix_by_name: '{}' is unknown to {} or listed twice", name, a.describe());
    seen[*position] = true;
    positions.push_back(*position);
  }
  return positions;
}

at::Tensor flat_indices(const Space& space, const std::vector<size_t>& positions,
                        const LinearOperator& a) {
  TensorList ranges;
  for (const size_t position : positions) {
    const SpaceEntry& entry = space.entries()[position];
    ranges.push_back(at::arange(entry.offset, entry.offset + entry.size,
                                at::TensorOptions().dtype(at::kLong).device(a.spec().device)));
  }
  return at::cat(ranges);
}

/// The chosen blocks, if there is one square block per entry; else null.
OperatorPtr select_blocks(const LinearOperator& a, const std::vector<size_t>& positions,
                          const OperatorSpec& spec) {
  const Structure structure = a.structure();
  const auto* block_diagonal_structure = std::get_if<BlockDiagonalStructure>(&structure);
  const auto& entries = a.spec().domain.entries();
  if (!block_diagonal_structure || block_diagonal_structure->blocks.size() != entries.size()) {
    return nullptr;
  }
  const auto& blocks = block_diagonal_structure->blocks;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (blocks[i]->rows() != entries[i].size || blocks[i]->cols() != entries[i].size) {
      return nullptr;
    }
  }
  std::vector<OperatorPtr> chosen;
  for (const size_t position : positions) chosen.push_back(blocks[position]);
  return block_diagonal(chosen, spec.domain, spec.range);
}

Symmetry principal_symmetry(const LinearOperator& a, bool is_principal) {
  return is_principal ? a.spec().symmetry : Symmetry::kGeneral;
}

}  // namespace

OperatorPtr submatrix(const OperatorPtr& a, const std::vector<int64_t>& rows,
                      const std::vector<int64_t>& cols) {
  detail::check_not_null(a, "submatrix");
  const bool is_principal = rows == cols && a->spec().domain == a->spec().range;
  Selection selection{checked_indices(rows, a->rows(), "row", *a),
                      checked_indices(cols, a->cols(), "column", *a), is_principal, a->spec()};
  selection.spec.domain = Space::flat(static_cast<int64_t>(cols.size()));
  selection.spec.range = Space::flat(static_cast<int64_t>(rows.size()));
  selection.spec.symmetry = principal_symmetry(*a, is_principal);
  if (OperatorPtr built = std::visit(BuildSubmatrix{selection}, a->structure())) return built;
  return std::make_shared<IndexSubmatrix>(std::move(selection), a);
}

OperatorPtr submatrix_by_name(const OperatorPtr& a, const std::vector<std::string>& rows,
                              const std::vector<std::string>& cols) {
  detail::check_not_null(a, "submatrix_by_name");
  const Space& domain = a->spec().domain;
  const Space& range = a->spec().range;
  std::vector<size_t> row_entries = find_entries(rows, range, *a);
  std::vector<size_t> col_entries = find_entries(cols, domain, *a);
  const bool is_principal = row_entries == col_entries && domain == range;
  OperatorSpec spec = a->spec();
  spec.domain = domain.subspace(col_entries);
  spec.range = range.subspace(row_entries);
  spec.symmetry = principal_symmetry(*a, is_principal);
  if (is_principal) {
    if (OperatorPtr blocks = select_blocks(*a, row_entries, spec)) return blocks;
  }
  Selection selection{flat_indices(range, row_entries, *a), flat_indices(domain, col_entries, *a),
                      is_principal, spec};
  if (OperatorPtr built = std::visit(BuildSubmatrix{selection}, a->structure())) return built;
  return std::make_shared<EntrySubmatrix>(std::move(spec), a, std::move(row_entries),
                                          std::move(col_entries), std::move(selection));
}

}  // namespace curvature
