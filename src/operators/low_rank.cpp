#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/operators/algebra.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/operators/low_rank.hpp>

#include "core/check.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

/// The nonzero part of U diag(c) U^T: orthonormal eigenvectors `[n, min(n, r)]` and eigenvalues.
detail::SymmetricEigen low_rank_eigen(const at::Tensor& u, const at::Tensor& c,
                                      const std::string& who) {
  const auto [q, r] = at::linalg_qr(u);
  const at::Tensor core = (r * c).mm(r.t());
  detail::SymmetricEigen eigen = detail::symmetric_eigen((core + core.t()).mul_(0.5), who);
  eigen.vectors = q.mm(eigen.vectors);
  return eigen;
}

/// [D, V] from its diagonal and V: with D = d^1/2 and V = U c^1/2 a root of diag(d) + U diag(c)
/// U^T.
OperatorPtr concatenated_root(const at::Tensor& d, const at::Tensor& v, const Space& range) {
  const int64_t n = v.size(0);
  const int64_t r = v.size(1);
  OperatorSpec spec = detail::spec_like(Space::flat(n + r), range, v, Symmetry::kGeneral);
  const MatrixMap apply = [=](const at::Tensor& x) {
    return (d.unsqueeze(-1) * x.narrow(0, 0, n)).addmm_(v, x.narrow(0, n, r));
  };
  const MatrixMap apply_adjoint = [=](const at::Tensor& y) {
    return at::cat({d.unsqueeze(-1) * y, v.t().mm(y)});
  };
  return function_operator(std::move(spec), apply, apply_adjoint);
}

class LowRankPlusDiagonal final : public FlatOperator {
 public:
  LowRankPlusDiagonal(OperatorSpec spec, at::Tensor d, at::Tensor u, at::Tensor c)
      : FlatOperator(std::move(spec)),
        diagonal_(std::move(d)),
        factor_(std::move(u)),
        coefficients_(std::move(c)) {}

  std::string describe() const override {
    return fmt::format("LowRank(n={}, rank={})", rows(), coefficients_.size(0));
  }
  Structure structure() const override {
    return LowRankStructure{diagonal_, factor_, coefficients_};
  }

  std::optional<at::Tensor> diagonal() const override {
    return diagonal_ + factor_.square().mv(coefficients_);
  }
  std::optional<double> trace() const override {
    return diagonal()->sum(at::kDouble).item<double>();
  }
  std::optional<LogDeterminant> log_determinant() const override;
  std::optional<double> frobenius_norm() const override;
  std::optional<at::Tensor> eigenvalues() const override;
  OperatorPtr function(const SpectralFunction& f) const override;
  OperatorPtr inverse() const override;
  OperatorPtr square_root_factor() const override;

 private:
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    const at::Tensor inner = factor_.t().mm(x).mul_(coefficients_.unsqueeze(-1));
    return (diagonal_.unsqueeze(-1) * x).addmm_(factor_, inner);
  }
  int64_t num_zeros() const { return diagonal_.eq(0).sum().item<int64_t>(); }
  bool has_constant_diagonal() const {
    return rows() == 0 || diagonal_.eq(diagonal_.select(0, 0)).all().item<bool>();
  }
  bool is_nonnegative(const at::Tensor& t) const { return t.ge(0).all().item<bool>(); }

  at::Tensor diagonal_;
  at::Tensor factor_;
  at::Tensor coefficients_;
};

std::optional<LogDeterminant> LowRankPlusDiagonal::log_determinant() const {
  const int64_t zeros = num_zeros();
  if (zeros > coefficients_.size(0)) {
    return LogDeterminant{0, -std::numeric_limits<double>::infinity()};
  }
  if (zeros > 0) return std::nullopt;
  // det(D + U C U^T) = det(D) det(I + C U^T D^-1 U)
  const at::Tensor gram = factor_.t().mm(factor_ / diagonal_.unsqueeze(-1));
  const at::Tensor core =
      coefficients_.unsqueeze(-1) * gram + at::eye(gram.size(0), gram.options());
  const LogDeterminant outer = detail::log_determinant_of_spectrum(diagonal_);
  const LogDeterminant inner = detail::log_determinant_of_matrix(core);
  return LogDeterminant{outer.sign * inner.sign, outer.log_abs + inner.log_abs};
}

std::optional<double> LowRankPlusDiagonal::frobenius_norm() const {
  // |D|^2 + 2 tr(D U C U^T) + tr(C G C G) with G = U^T U
  const at::Tensor weighted = factor_.t().mm(factor_) * coefficients_;
  const at::Tensor low_rank_diagonal = factor_.square().mv(coefficients_);
  const double squared =
      (diagonal_ * (diagonal_ + 2 * low_rank_diagonal)).sum(at::kDouble).item<double>() +
      (weighted * weighted.t()).sum(at::kDouble).item<double>();
  return std::sqrt(std::max(squared, 0.0));
}

std::optional<at::Tensor> LowRankPlusDiagonal::eigenvalues() const {
  if (!has_constant_diagonal()) return std::nullopt;
  const auto eigen = low_rank_eigen(factor_, coefficients_, describe());
  at::Tensor values = diagonal_.clone();
  values.narrow(0, 0, eigen.values.size(0)) += eigen.values;
  return values;
}

OperatorPtr LowRankPlusDiagonal::function(const SpectralFunction& f) const {
  if (!has_constant_diagonal()) return nullptr;
  const auto eigen = low_rank_eigen(factor_, coefficients_, describe());
  const at::Tensor shift = diagonal_.narrow(0, 0, std::min<int64_t>(rows(), 1));
  const at::Tensor values = eigen.values + shift;
  if (values.size(0) == rows()) {  // the shift is no eigenvalue, and f may not be defined there
    const at::Tensor mapped = f(values);
    return low_rank_plus_diagonal(at::zeros_like(mapped), eigen.vectors, mapped, spec().domain);
  }
  const at::Tensor mapped = f(at::cat({shift, values}));
  const at::Tensor at_shift = mapped.narrow(0, 0, 1);
  const at::Tensor others = mapped.narrow(0, 1, values.size(0));
  return low_rank_plus_diagonal(at_shift.expand({rows()}), eigen.vectors, others - at_shift,
                                spec().domain, detail::definiteness(mapped));
}

OperatorPtr LowRankPlusDiagonal::inverse() const {
  const int64_t zeros = num_zeros();
  CURVATURE_CHECK(zeros <= coefficients_.size(0), NumericalError,
                  "{}: inverse of a singular operator; add damping", describe());
  if (zeros > 0) return nullptr;
  // Woodbury: D^-1 - W C (I + G C)^-1 W^T with W = D^-1 U, G = U^T D^-1 U; zeros in C are allowed.
  const at::Tensor w = factor_ / diagonal_.unsqueeze(-1);
  const at::Tensor gram = factor_.t().mm(w);
  const at::Tensor inner = detail::inverse_matrix(
      gram * coefficients_ + at::eye(gram.size(0), gram.options()), Symmetry::kGeneral, describe());
  const at::Tensor core = coefficients_.unsqueeze(-1) * inner;
  const auto eigen = detail::symmetric_eigen((core + core.t()).mul_(0.5), describe());
  return low_rank_plus_diagonal(diagonal_.reciprocal(), w.mm(eigen.vectors), -eigen.values,
                                spec().domain, detail::inverse_symmetry(spec().symmetry));
}

OperatorPtr LowRankPlusDiagonal::square_root_factor() const {
  if (is_nonnegative(diagonal_) && is_nonnegative(coefficients_)) {
    return concatenated_root(diagonal_.sqrt(), factor_ * coefficients_.sqrt(), spec().range);
  }
  if (has_constant_diagonal()) return LinearOperator::square_root_factor();
  if (diagonal_.le(0).any().item<bool>()) return nullptr;
  // D^1/2 (I + W C W^T)^1/2 with W = D^-1/2 U
  const at::Tensor root = diagonal_.sqrt();
  const OperatorPtr whitened = low_rank_plus_diagonal(
      at::ones_like(root), factor_ / root.unsqueeze(-1), coefficients_, spec().range);
  return product(curvature::diagonal(root, spec().range), whitened->square_root_factor());
}

}  // namespace

OperatorPtr low_rank_plus_diagonal(const at::Tensor& d, const at::Tensor& u, const at::Tensor& c,
                                   Symmetry symmetry) {
  const int64_t n = detail::checked(d, 1, "low_rank_plus_diagonal").size(0);
  return low_rank_plus_diagonal(d, u, c, Space::flat(n), symmetry);
}

OperatorPtr low_rank_plus_diagonal(const at::Tensor& d, const at::Tensor& u, const at::Tensor& c,
                                   Space space, Symmetry symmetry) {
  constexpr const char* kWho = "low_rank_plus_diagonal";
  at::Tensor diagonal = detail::checked(d, 1, kWho);
  at::Tensor factor = detail::checked(u, 2, kWho);
  at::Tensor coefficients = detail::checked(c, 1, kWho);
  detail::check_like(factor, diagonal, kWho);
  detail::check_like(coefficients, diagonal, kWho);
  const int64_t n = space.size();
  CURVATURE_CHECK(
      diagonal.size(0) == n && factor.size(0) == n && factor.size(1) == coefficients.size(0),
      ShapeError, "{}: shapes do not fit; expected d [{}], U [{}, r], c [r], got d {}, U {}, c {}",
      kWho, n, n, detail::to_string(diagonal.sizes()), detail::to_string(factor.sizes()),
      detail::to_string(coefficients.sizes()));
  Symmetry known = std::max(symmetry, Symmetry::kSymmetric);
  if (coefficients.ge(0).all().item<bool>())
    known = std::max(known, detail::definiteness(diagonal));
  OperatorSpec spec = detail::spec_like(space, space, diagonal, known);
  return std::make_shared<LowRankPlusDiagonal>(std::move(spec), std::move(diagonal),
                                               std::move(factor), std::move(coefficients));
}

OperatorPtr outer_products(const at::Tensor& u, const at::Tensor& c) {
  const at::Tensor factor = detail::checked(u, 2, "outer_products");
  return low_rank_plus_diagonal(at::zeros({factor.size(0)}, factor.options()), factor, c);
}

}  // namespace curvature
