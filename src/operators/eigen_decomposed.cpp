#include <variant>

#include <curvature/operators/block_diagonal.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/eigen_decomposed.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/check.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

OperatorPtr squared_entries(const LinearOperator& a);

/// The operator whose entries are the squares of the entries of another one; null if its structure
/// does not give them.
struct SquareEntries {
  const OperatorSpec& spec;

  OperatorPtr operator()(const ScaledIdentityStructure& a) const {
    if (!(spec.domain == spec.range)) return nullptr;
    return scaled_identity(a.scale * a.scale, spec.domain,
                           at::TensorOptions().dtype(spec.dtype).device(spec.device));
  }
  OperatorPtr operator()(const DiagonalStructure& a) const {
    return diagonal(a.diagonal.square(), spec.domain);
  }
  OperatorPtr operator()(const DenseStructure& a) const {
    return dense(a.matrix.square(), spec.domain, spec.range);
  }
  OperatorPtr operator()(const KroneckerStructure& a) const {
    std::vector<at::Tensor> squares;
    for (const at::Tensor& s : a.factors) squares.push_back(s.square());
    return kronecker(squares, spec.domain, spec.range);
  }
  OperatorPtr operator()(const BlockDiagonalStructure& a) const {
    std::vector<OperatorPtr> squares;
    for (const OperatorPtr& block : a.blocks) {
      squares.push_back(squared_entries(*block));
      if (!squares.back()) return nullptr;
    }
    return block_diagonal(squares, spec.domain, spec.range);
  }
  template <class Other>
  OperatorPtr operator()(const Other&) const {
    return nullptr;
  }
};

OperatorPtr squared_entries(const LinearOperator& a) {
  return std::visit(SquareEntries{a.spec()}, a.structure());
}

class EigenDecomposed final : public LinearOperator {
 public:
  EigenDecomposed(OperatorSpec spec, OperatorPtr basis, at::Tensor eigenvalues)
      : LinearOperator(std::move(spec)),
        basis_(std::move(basis)),
        eigenvalues_(std::move(eigenvalues)),
        parts_(basis_->spec().domain.split(eigenvalues_.unsqueeze(-1))) {}

  std::string describe() const override {
    return fmt::format("EigenDecomposed({})", basis_->describe());
  }
  Structure structure() const override { return EigenStructure{basis_, eigenvalues_}; }

  std::optional<at::Tensor> diagonal() const override {
    const OperatorPtr squares = squared_entries(*basis_);
    if (!squares) return std::nullopt;
    return squares->apply(eigenvalues_);
  }
  std::optional<double> trace() const override {
    return eigenvalues_.sum(at::kDouble).item<double>();
  }
  std::optional<LogDeterminant> log_determinant() const override {
    return detail::log_determinant_of_spectrum(eigenvalues_);
  }
  std::optional<double> frobenius_norm() const override {
    return eigenvalues_.norm().item<double>();
  }
  std::optional<at::Tensor> eigenvalues() const override { return eigenvalues_.clone(); }
  OperatorPtr function(const SpectralFunction& f) const override {
    return eigen_decomposed(basis_, f(eigenvalues_));
  }

 private:
  TensorList apply_impl(const TensorList& x) const override {
    TensorList coordinates = basis_->apply_adjoint(x);
    for (size_t i = 0; i < coordinates.size(); ++i) {
      coordinates[i] = coordinates[i].mul(parts_[i]);
    }
    return basis_->apply(coordinates);
  }
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return basis_->apply(basis_->apply_adjoint(x).mul(eigenvalues_.unsqueeze(-1)));
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return apply_flat_impl(y);
  }

  OperatorPtr basis_;
  at::Tensor eigenvalues_;
  TensorList parts_;  // views of it, `[shape..., 1]`
};

}  // namespace

OperatorPtr eigen_decomposed(OperatorPtr basis, const at::Tensor& eigenvalues) {
  detail::check_not_null(basis, "eigen_decomposed");
  at::Tensor values = detail::checked(eigenvalues, 1, "eigen_decomposed");
  CURVATURE_CHECK(basis->rows() == basis->cols() && basis->cols() == values.size(0), ShapeError,
                  "eigen_decomposed: expected a square basis and one eigenvalue per column, got {} "
                  "({}x{}) and {}",
                  basis->describe(), basis->rows(), basis->cols(),
                  detail::to_string(values.sizes()));
  CURVATURE_CHECK(
      values.scalar_type() == basis->spec().dtype && values.device() == basis->spec().device,
      DtypeDeviceError, "eigen_decomposed: expected eigenvalues of {} on {}, got {} on {}",
      c10::toString(basis->spec().dtype), basis->spec().device.str(),
      c10::toString(values.scalar_type()), values.device().str());
  const Space& space = basis->spec().range;
  OperatorSpec spec = detail::spec_like(space, space, values, detail::definiteness(values));
  return std::make_shared<EigenDecomposed>(std::move(spec), std::move(basis), std::move(values));
}

OperatorPtr eigen_decomposed(const at::Tensor& basis, const at::Tensor& eigenvalues) {
  return eigen_decomposed(dense(basis), eigenvalues);
}

}  // namespace curvature
