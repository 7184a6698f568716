#include "layerwise/columns_in_basis.hpp"

#include <utility>

#include <ATen/TensorOperators.h>

#include "core/check.hpp"

namespace curvature::detail {
namespace {

Symmetry symmetry_of(const at::Tensor& eigenvalues) {
  if (eigenvalues.numel() == 0) return Symmetry::kPositiveDefinite;
  const double smallest = eigenvalues.min().item<double>();
  if (smallest > 0) return Symmetry::kPositiveDefinite;
  return smallest == 0 ? Symmetry::kPositiveSemidefinite : Symmetry::kSymmetric;
}

class ColumnsInBasis final : public FlatOperator {
 public:
  ColumnsInBasis(at::Tensor basis, at::Tensor eigenvalues)
      : FlatOperator({.domain = Space::flat(eigenvalues.numel()),
                      .range = Space::flat(eigenvalues.numel()),
                      .dtype = eigenvalues.scalar_type(),
                      .device = eigenvalues.device(),
                      .symmetry = symmetry_of(eigenvalues)}),
        basis_(std::move(basis)),
        eigenvalues_(std::move(eigenvalues)) {}

  std::string describe() const override {
    return fmt::format("ColumnsInBasis({} x {})", eigenvalues_.size(0), eigenvalues_.size(1));
  }

  std::optional<at::Tensor> diagonal() const override {
    return basis_.square().matmul(eigenvalues_).reshape({-1});
  }
  std::optional<double> trace() const override {
    return eigenvalues_.sum(at::kDouble).item<double>();
  }
  std::optional<double> frobenius_norm() const override {
    return eigenvalues_.to(at::kDouble).norm().item<double>();
  }
  std::optional<LogDeterminant> log_determinant() const override {
    const at::Tensor values = eigenvalues_.to(at::kDouble);
    return LogDeterminant{values.sign().prod().item<double>(),
                          values.abs().log().sum().item<double>()};
  }
  std::optional<at::Tensor> eigenvalues() const override { return eigenvalues_.reshape({-1}); }
  OperatorPtr function(const SpectralFunction& f) const override {
    return columns_in_basis(basis_, f(eigenvalues_.reshape({-1})).reshape(eigenvalues_.sizes()));
  }

 protected:
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    const int64_t m = eigenvalues_.size(0), n = eigenvalues_.size(1), k = x.size(1);
    const at::Tensor rotated = basis_.t().matmul(x.reshape({m, n * k})).reshape({m, n, k});
    const at::Tensor scaled = (rotated * eigenvalues_.unsqueeze(2)).reshape({m, n * k});
    return basis_.matmul(scaled).reshape({m * n, k});
  }

 private:
  at::Tensor basis_;
  at::Tensor eigenvalues_;
};

}  // namespace

OperatorPtr columns_in_basis(const at::Tensor& basis, const at::Tensor& eigenvalues) {
  return std::make_shared<ColumnsInBasis>(basis, eigenvalues);
}

}  // namespace curvature::detail
