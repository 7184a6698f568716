#include <curvature/operators/decorators.hpp>

#include "core/check.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

class Counting final : public LinearOperator {
 public:
  Counting(OperatorPtr original, ProductCounter counter)
      : LinearOperator(original->spec()),
        original_(std::move(original)),
        counter_(std::move(counter)) {}

  std::string describe() const override { return original_->describe(); }
  std::optional<at::Tensor> diagonal() const override { return original_->diagonal(); }
  std::optional<double> trace() const override { return original_->trace(); }
  std::optional<LogDeterminant> log_determinant() const override {
    return original_->log_determinant();
  }
  std::optional<double> frobenius_norm() const override { return original_->frobenius_norm(); }
  std::optional<at::Tensor> eigenvalues() const override { return original_->eigenvalues(); }
  OperatorPtr function(const SpectralFunction& f) const override { return original_->function(f); }
  OperatorPtr inverse() const override { return original_->inverse(); }
  OperatorPtr square_root_factor() const override { return original_->square_root_factor(); }

 private:
  const TensorList& counted(const TensorList& x) const {
    if (!x.empty()) *counter_ += x.front().size(-1);
    return x;
  }
  const at::Tensor& counted(const at::Tensor& x) const {
    *counter_ += x.size(1);
    return x;
  }
  TensorList apply_impl(const TensorList& x) const override { return original_->apply(counted(x)); }
  TensorList apply_adjoint_impl(const TensorList& y) const override {
    return original_->apply_adjoint(counted(y));
  }
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return original_->apply(counted(x));
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return original_->apply_adjoint(counted(y));
  }

  OperatorPtr original_;
  ProductCounter counter_;
};

/// The same map in the flat view, under another spec.
class View final : public LinearOperator {
 public:
  View(OperatorSpec spec, OperatorPtr original)
      : LinearOperator(std::move(spec)),
        original_(std::move(original)),
        same_form_(this->spec().domain == original_->spec().domain &&
                   this->spec().range == original_->spec().range) {}

  std::string describe() const override { return original_->describe(); }
  Structure structure() const override;

  std::optional<at::Tensor> diagonal() const override { return original_->diagonal(); }
  std::optional<double> trace() const override { return original_->trace(); }
  std::optional<LogDeterminant> log_determinant() const override {
    return original_->log_determinant();
  }
  std::optional<double> frobenius_norm() const override { return original_->frobenius_norm(); }
  std::optional<at::Tensor> eigenvalues() const override {
    return is_symmetric() ? original_->eigenvalues() : std::nullopt;
  }
  OperatorPtr function(const SpectralFunction& f) const override {
    return is_symmetric() ? view(original_->function(f), spec().domain, spec().range) : nullptr;
  }
  OperatorPtr inverse() const override {
    OperatorPtr inverse = original_->inverse();
    if (!inverse) return nullptr;
    OperatorSpec inverse_spec = spec();
    std::swap(inverse_spec.domain, inverse_spec.range);
    inverse_spec.symmetry = detail::inverse_symmetry(spec().symmetry);
    return std::make_shared<View>(std::move(inverse_spec), std::move(inverse));
  }
  OperatorPtr square_root_factor() const override {
    if (!is_symmetric()) return nullptr;
    OperatorPtr root = original_->square_root_factor();
    if (!root) return nullptr;
    const Space domain = root->spec().domain;
    return view(std::move(root), domain, spec().range);
  }

 private:
  static OperatorPtr view(OperatorPtr a, const Space& domain, const Space& range) {
    return a ? with_spaces(std::move(a), domain, range) : nullptr;
  }
  TensorList apply_impl(const TensorList& x) const override {
    if (same_form_) return original_->apply(x);
    return spec().range.split(original_->apply(spec().domain.join(x)));
  }
  TensorList apply_adjoint_impl(const TensorList& y) const override {
    if (is_symmetric()) return apply_impl(y);
    if (same_form_) return original_->apply_adjoint(y);
    return spec().domain.split(original_->apply_adjoint(spec().range.join(y)));
  }
  at::Tensor apply_flat_impl(const at::Tensor& x) const override { return original_->apply(x); }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return is_symmetric() ? original_->apply(y) : original_->apply_adjoint(y);
  }

  OperatorPtr original_;
  bool same_form_;
};

/// Structures that say nothing of spaces but their sizes can be taken over as they are.
Structure View::structure() const {
  if (spec().symmetry != original_->spec().symmetry) return NoStructure{};
  return std::visit(
      [&](const auto& structure) -> Structure {
        using Kind = std::decay_t<decltype(structure)>;
        if constexpr (std::is_same_v<Kind, EigenStructure>) {
          return EigenStructure{
              with_spaces(structure.basis, structure.basis->spec().domain, spec().range),
              structure.eigenvalues};
        } else if constexpr (std::is_same_v<Kind, SumStructure> ||
                             std::is_same_v<Kind, ProductStructure> ||
                             std::is_same_v<Kind, AdjointStructure>) {
          return NoStructure{};
        } else {
          return structure;
        }
      },
      original_->structure());
}

}  // namespace

OperatorPtr counting(OperatorPtr a, ProductCounter counter) {
  detail::check_not_null(a, "counting");
  CURVATURE_CHECK(counter != nullptr, OptionError, "counting: got a null counter");
  return std::make_shared<Counting>(std::move(a), std::move(counter));
}

OperatorPtr with_spaces(OperatorPtr a, Space domain, Space range) {
  detail::check_not_null(a, "with_spaces");
  CURVATURE_CHECK(domain.size() == a->cols() && range.size() == a->rows(), ShapeError,
                  "with_spaces: {} does not fit; expected spaces of {} columns and {} rows, got {} "
                  "and {}",
                  a->describe(), a->cols(), a->rows(), domain.describe(), range.describe());
  OperatorSpec spec = a->spec();
  if (!(domain == range)) spec.symmetry = Symmetry::kGeneral;
  spec.domain = std::move(domain);
  spec.range = std::move(range);
  return std::make_shared<View>(std::move(spec), std::move(a));
}

OperatorPtr declare_symmetry(OperatorPtr a, Symmetry symmetry) {
  detail::check_not_null(a, "declare_symmetry");
  detail::check_one_space(*a, "declare_symmetry");
  OperatorSpec spec = a->spec();
  spec.symmetry = symmetry;
  return std::make_shared<View>(std::move(spec), std::move(a));
}

}  // namespace curvature
