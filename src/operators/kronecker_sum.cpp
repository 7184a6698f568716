#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/outer.h>

#include <curvature/operators/function_operator.hpp>
#include <curvature/operators/kronecker.hpp>
#include <curvature/operators/kronecker_sum.hpp>

#include "core/check.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

/// K with K^T P K = I and K^T S K = diag(l).
struct Pencil {
  at::Tensor vectors;      ///< K
  at::Tensor values;       ///< l
  double log_determinant;  ///< of P
};

Pencil pencil_of(const at::Tensor& p, const at::Tensor& s, const std::string& who) {
  const auto [factor, failure] = at::linalg_cholesky_ex(p);
  CURVATURE_CHECK(failure.item<int64_t>() == 0, NumericalError,
                  "{}: a factor of the first product is not positive definite; add damping", who);
  const at::Tensor half = at::linalg_solve_triangular(factor, s, /*upper=*/false);
  const at::Tensor reduced = at::linalg_solve_triangular(factor, half.t(), /*upper=*/false);
  const auto [values, vectors] = detail::symmetric_eigen((reduced + reduced.t()) / 2, who);
  return {at::linalg_solve_triangular(factor.t(), vectors, /*upper=*/true), values,
          2 * factor.diagonal().to(at::kDouble).log().sum().item<double>()};
}

class KroneckerSum final : public FlatOperator {
 public:
  KroneckerSum(OperatorSpec spec, std::array<at::Tensor, 4> factors, double coefficient)
      : FlatOperator(std::move(spec)),
        factors_(std::move(factors)),
        coefficient_(coefficient),
        first_(kronecker({factors_[0], factors_[1]}, Symmetry::kSymmetric)),
        second_(kronecker({factors_[2], factors_[3]}, Symmetry::kSymmetric)) {}

  std::string describe() const override {
    return fmt::format("KroneckerSum({}x{})", factors_[0].size(0), factors_[1].size(0));
  }
  std::optional<at::Tensor> diagonal() const override {
    return *first_->diagonal() + coefficient_ * *second_->diagonal();
  }
  std::optional<double> trace() const override {
    return *first_->trace() + coefficient_ * *second_->trace();
  }
  std::optional<double> frobenius_norm() const override {
    const double a = *first_->frobenius_norm(), b = *second_->frobenius_norm();
    const auto inner = [](const at::Tensor& x, const at::Tensor& y) {
      return (x.to(at::kDouble) * y.to(at::kDouble)).sum().item<double>();
    };
    const double cross = inner(factors_[0], factors_[2]) * inner(factors_[1], factors_[3]);
    return std::sqrt(std::max(0.0, a * a + coefficient_ * (2 * cross + coefficient_ * b * b)));
  }
  std::optional<LogDeterminant> log_determinant() const override {
    const auto [left, right] = pencils();
    const at::Tensor values = eigenvalues_of(left, right).to(at::kDouble);
    const auto m = static_cast<double>(left.values.size(0)),
               n = static_cast<double>(right.values.size(0));
    return LogDeterminant{values.sign().prod().item<double>(),
                          values.abs().log().sum().item<double>() + n * left.log_determinant +
                              m * right.log_determinant};
  }
  OperatorPtr inverse() const override;

 private:
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return first_->apply(x).add_(second_->apply(x), coefficient_);
  }
  std::pair<Pencil, Pencil> pencils() const {
    return {pencil_of(factors_[0], factors_[2], describe()),
            pencil_of(factors_[1], factors_[3], describe())};
  }
  /// Of the sum in the coordinates where the first product is the identity `[m n]`.
  at::Tensor eigenvalues_of(const Pencil& left, const Pencil& right) const {
    return at::outer(left.values, right.values).reshape({-1}) * coefficient_ + 1;
  }

  std::array<at::Tensor, 4> factors_;
  double coefficient_;
  OperatorPtr first_, second_;
};

/// K (1 + c l_1 l_2^T)^-1 K^T with K = K_1 (x) K_2.
OperatorPtr KroneckerSum::inverse() const {
  const auto [left, right] = pencils();
  const at::Tensor values = eigenvalues_of(left, right);
  CURVATURE_CHECK(values.numel() == 0 || !values.eq(0).any().item<bool>(), NumericalError,
                  "{}: inverse of a singular operator; add damping", describe());
  CURVATURE_CHECK(
      spec().symmetry < Symmetry::kPositiveSemidefinite || !values.lt(0).any().item<bool>(),
      NumericalError, "{}: is not positive definite, as declared; add damping", describe());
  const OperatorPtr basis = kronecker({left.vectors, right.vectors});
  OperatorSpec inverse_spec = spec();
  inverse_spec.symmetry = detail::inverse_symmetry(spec().symmetry);
  return function_operator(inverse_spec, [basis, values](const at::Tensor& x) {
    return basis->apply(basis->apply_adjoint(x) / values.unsqueeze(1));
  });
}

}  // namespace

OperatorPtr kronecker_sum(const at::Tensor& a, const at::Tensor& b, const at::Tensor& c,
                          const at::Tensor& d, double coefficient, Symmetry symmetry) {
  const char* who = "kronecker_sum";
  const std::array<at::Tensor, 4> factors = {detail::checked(a, 2, who), detail::checked(b, 2, who),
                                             detail::checked(c, 2, who),
                                             detail::checked(d, 2, who)};
  for (size_t i = 0; i < factors.size(); ++i) {
    detail::check_like(factors[i], factors[0], who);
    const int64_t size = factors[i % 2].size(0);
    CURVATURE_CHECK(factors[i].size(0) == size && factors[i].size(1) == size, ShapeError,
                    "{}: factor {} has shape {}; expected [{}, {}]", who, i + 1,
                    detail::to_string(factors[i].sizes()), size, size);
  }
  CURVATURE_CHECK(symmetry >= Symmetry::kSymmetric, OptionError,
                  "{}: the factors are symmetric, so is the sum", who);
  const Space space = Space::flat(a.size(0) * b.size(0));
  return std::make_shared<KroneckerSum>(detail::spec_like(space, space, factors[0], symmetry),
                                        factors, coefficient);
}

}  // namespace curvature
