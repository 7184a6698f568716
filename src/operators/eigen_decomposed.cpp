#include <algorithm>
#include <cmath>
#include <variant>

#include <ATen/TensorOperators.h>

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

/// Q and d of a decomposition rest I + Q diag(d) Q^T.
struct Columns {
  OperatorPtr basis;
  at::Tensor eigenvalues;
  double rest = 0;
};

/// How many slices along the axis have no entry but `value` up to the first that has; not all.
int64_t num_leading(const at::Tensor& eigenvalues, int64_t axis, double value) {
  const at::Tensor is_value = eigenvalues.eq(value).all(1 - axis).to(at::kInt);
  return std::min(is_value.cumprod(0).sum().item<int64_t>(), eigenvalues.size(axis) - 1);
}

/// Without the leading columns of either factor of a Kronecker product that have no eigenvalue but
/// one, the same for all. Such are the factors of few examples, where bases with ascending
/// eigenvalues begin with zeros, and what is a function of these, as a damped inverse.
Columns without_rest(OperatorPtr basis, const at::Tensor& eigenvalues) {
  const Structure structure = basis->structure();
  const auto* product = std::get_if<KroneckerStructure>(&structure);
  if (product == nullptr || product->factors.size() != 2 || eigenvalues.numel() == 0) {
    return {std::move(basis), eigenvalues};
  }
  const int64_t sizes[] = {product->factors[0].size(1), product->factors[1].size(1)};
  at::Tensor matrix = eigenvalues.view(sizes);
  const double rest = matrix[0][0].item<double>();
  std::vector<at::Tensor> factors;
  int64_t dropped = 0;
  for (int64_t axis = 0; axis < 2; ++axis) {
    const int64_t count = num_leading(matrix, axis, rest);
    matrix = matrix.narrow(axis, count, sizes[axis] - count);
    factors.push_back(
        product->factors[static_cast<size_t>(axis)].narrow(1, count, sizes[axis] - count));
    dropped += count;
  }
  // Where the rest is not zero, its part of a product costs as much as about this many columns.
  constexpr int64_t kColumnsOfAPass = 16;
  if (!std::isfinite(rest) || dropped < (rest == 0 ? 1 : kColumnsOfAPass)) {
    return {std::move(basis), eigenvalues};
  }
  return {kronecker(factors, Space::flat(matrix.numel()), basis->spec().range),
          matrix.reshape({-1}) - rest, rest};
}

class EigenDecomposed final : public LinearOperator {
 public:
  EigenDecomposed(OperatorSpec spec, OperatorPtr basis, at::Tensor eigenvalues)
      : LinearOperator(std::move(spec)),
        basis_(std::move(basis)),
        eigenvalues_(std::move(eigenvalues)),
        used_(without_rest(basis_, eigenvalues_)),
        parts_(used_.basis->spec().domain.split(used_.eigenvalues.unsqueeze(-1))) {}

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
    TensorList coordinates = used_.basis->apply_adjoint(x);
    for (size_t i = 0; i < coordinates.size(); ++i) {
      coordinates[i] = coordinates[i].mul(parts_[i]);
    }
    TensorList product = used_.basis->apply(coordinates);
    if (used_.rest != 0) {
      for (size_t i = 0; i < x.size(); ++i) product[i].add_(x[i], used_.rest);
    }
    return product;
  }
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    const at::Tensor coordinates = used_.basis->apply_adjoint(x);
    at::Tensor product = used_.basis->apply(coordinates.mul(used_.eigenvalues.unsqueeze(-1)));
    return used_.rest == 0 ? product : product.add_(x, used_.rest);
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return apply_flat_impl(y);
  }

  OperatorPtr basis_;
  at::Tensor eigenvalues_;
  Columns used_;      // what a product needs
  TensorList parts_;  // views of their eigenvalues, `[shape..., 1]`
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
