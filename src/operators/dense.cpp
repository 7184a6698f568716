#include <curvature/operators/dense.hpp>
#include <curvature/operators/eigen_decomposed.hpp>

#include "core/check.hpp"
#include "core/matrix_product.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

class Dense final : public FlatOperator {
 public:
  Dense(OperatorSpec spec, at::Tensor matrix)
      : FlatOperator(std::move(spec)), matrix_(std::move(matrix)) {}

  std::string describe() const override { return fmt::format("Dense({}x{})", rows(), cols()); }
  Structure structure() const override { return DenseStructure{matrix_}; }

  std::optional<at::Tensor> diagonal() const override {
    if (!is_square()) return std::nullopt;
    return matrix_.diagonal().clone();
  }
  std::optional<double> trace() const override {
    if (!is_square()) return std::nullopt;
    return matrix_.diagonal().sum(at::kDouble).item<double>();
  }
  std::optional<LogDeterminant> log_determinant() const override {
    if (!is_square()) return std::nullopt;
    return detail::log_determinant_of_matrix(matrix_);
  }
  std::optional<double> frobenius_norm() const override { return matrix_.norm().item<double>(); }
  std::optional<at::Tensor> eigenvalues() const override {
    if (!is_symmetric()) return std::nullopt;
    return detail::symmetric_eigenvalues(matrix_, describe());
  }
  OperatorPtr function(const SpectralFunction& f) const override {
    if (!is_symmetric()) return nullptr;
    const auto eigen = detail::symmetric_eigen(matrix_, describe());
    OperatorPtr basis = dense(eigen.vectors, Space::flat(cols()), spec().range, Symmetry::kGeneral);
    return eigen_decomposed(std::move(basis), f(eigen.values));
  }
  OperatorPtr inverse() const override {
    if (!is_square()) return nullptr;
    const Symmetry symmetry = spec().symmetry;
    return dense(detail::inverse_matrix(matrix_, symmetry, describe()), spec().range, spec().domain,
                 detail::inverse_symmetry(symmetry));
  }
  OperatorPtr square_root_factor() const override {
    if (!is_symmetric()) return nullptr;
    return dense(detail::square_root_matrix(matrix_, describe()), Space::flat(cols()),
                 spec().range);
  }

 private:
  bool is_square() const { return rows() == cols(); }

  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return detail::matrix_product(matrix_, x);
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return detail::matrix_product(matrix_.t(), y);
  }

  at::Tensor matrix_;
};

}  // namespace

OperatorPtr dense(const at::Tensor& matrix, Symmetry symmetry) {
  const at::Tensor checked = detail::checked(matrix, 2, "dense");
  return dense(checked, Space::flat(checked.size(1)), Space::flat(checked.size(0)), symmetry);
}

OperatorPtr dense(const at::Tensor& matrix, Space domain, Space range, Symmetry symmetry) {
  at::Tensor checked = detail::checked(matrix, 2, "dense");
  CURVATURE_CHECK(checked.size(0) == range.size() && checked.size(1) == domain.size(), ShapeError,
                  "dense: the matrix does not fit the spaces; expected [{}, {}], got {}",
                  range.size(), domain.size(), detail::to_string(checked.sizes()));
  OperatorSpec spec = detail::spec_like(std::move(domain), std::move(range), checked, symmetry);
  return std::make_shared<Dense>(std::move(spec), std::move(checked));
}

}  // namespace curvature
