#include <algorithm>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/ones.h>

#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/eigen_decomposed.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/check.hpp"
#include "core/matrix_product.hpp"
#include "core/transposition.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

/// S applied to the middle axis of x `[before, n, after]`.
at::Tensor mode_product(const at::Tensor& s, const at::Tensor& x) {
  const int64_t before = x.size(0);
  const int64_t after = x.size(2);
  if (after == 1)
    return detail::matrix_product(x.reshape({before, x.size(1)}), s.t()).unsqueeze(-1);
  if (before == 1) return detail::matrix_product(s, x.squeeze(0)).unsqueeze(0);
  return at::bmm(s.unsqueeze(0).expand({before, s.size(0), s.size(1)}), x);
}

/// The Kronecker product of `factors` times x `[n, K]`.
at::Tensor multiply(const std::vector<at::Tensor>& factors, const at::Tensor& x) {
  // Columns come first in memory, so that the last mode is one large matrix product.
  const int64_t columns = x.size(1);
  at::Tensor y = detail::columns_as_rows(x);
  int64_t after = 1;
  for (size_t i = factors.size(); i-- > 0;) {
    int64_t before = columns;
    for (size_t j = 0; j < i; ++j) before *= factors[j].size(1);
    y = mode_product(factors[i], y.reshape({before, factors[i].size(1), after}));
    after *= factors[i].size(0);
  }
  return y.reshape({columns, after}).t();
}

/// All products of one entry of each vector, the last index varying fastest.
at::Tensor outer(const std::vector<at::Tensor>& vectors) {
  at::Tensor values = vectors.front();
  for (size_t i = 1; i < vectors.size(); ++i) {
    values = (values.unsqueeze(1) * vectors[i].unsqueeze(0)).reshape(-1);
  }
  return values;
}

class Kronecker final : public FlatOperator {
 public:
  Kronecker(OperatorSpec spec, std::vector<at::Tensor> factors)
      : FlatOperator(std::move(spec)), factors_(std::move(factors)) {}

  std::string describe() const override {
    std::vector<std::string> shapes;
    for (const at::Tensor& s : factors_)
      shapes.push_back(fmt::format("{}x{}", s.size(0), s.size(1)));
    return fmt::format("Kronecker({})", fmt::join(shapes, ", "));
  }
  Structure structure() const override { return KroneckerStructure{factors_}; }

  std::optional<at::Tensor> diagonal() const override;
  std::optional<double> trace() const override;
  std::optional<LogDeterminant> log_determinant() const override;
  std::optional<double> frobenius_norm() const override {
    double norm = 1;
    for (const at::Tensor& s : factors_) norm *= s.norm().item<double>();
    return norm;
  }
  std::optional<at::Tensor> eigenvalues() const override;
  OperatorPtr function(const SpectralFunction& f) const override;
  OperatorPtr inverse() const override;
  OperatorPtr square_root_factor() const override;

 private:
  at::Tensor apply_flat_impl(const at::Tensor& x) const override { return multiply(factors_, x); }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    std::vector<at::Tensor> transposed;
    for (const at::Tensor& s : factors_) transposed.push_back(s.t());
    return multiply(transposed, y);
  }
  bool has_square_factors() const {
    return std::all_of(factors_.begin(), factors_.end(),
                       [](const at::Tensor& s) { return s.size(0) == s.size(1); });
  }

  std::vector<at::Tensor> factors_;
};

std::optional<at::Tensor> Kronecker::diagonal() const {
  if (rows() != cols()) return std::nullopt;
  // Entry i is the product of S_j[r_j, c_j] over the digits of i as a row and as a column number.
  at::Tensor row = at::arange(rows(), at::TensorOptions().dtype(at::kLong).device(spec().device));
  at::Tensor column = row;
  at::Tensor values = at::ones({rows()}, detail::options_of(*this));
  for (auto s = factors_.rbegin(); s != factors_.rend() && rows() > 0; ++s) {
    const at::Tensor index = row.remainder(s->size(0)) * s->size(1) + column.remainder(s->size(1));
    values *= s->reshape(-1).index_select(0, index);
    row = row.floor_divide(s->size(0));
    column = column.floor_divide(s->size(1));
  }
  return values;
}

std::optional<double> Kronecker::trace() const {
  if (rows() != cols()) return std::nullopt;
  if (!has_square_factors()) return diagonal()->sum(at::kDouble).item<double>();
  double trace = 1;
  for (const at::Tensor& s : factors_) trace *= s.diagonal().sum(at::kDouble).item<double>();
  return trace;
}

std::optional<LogDeterminant> Kronecker::log_determinant() const {
  if (rows() != cols()) return std::nullopt;
  if (rows() == 0) return LogDeterminant{1, 0};
  // A factor that is not square limits the rank.
  if (!has_square_factors()) return LogDeterminant{0, -std::numeric_limits<double>::infinity()};
  LogDeterminant result{1, 0};
  for (const at::Tensor& s : factors_) {
    const LogDeterminant factor = detail::log_determinant_of_matrix(s);
    const int64_t multiplicity = rows() / s.size(0);
    if (factor.sign == 0 || multiplicity % 2 == 1) result.sign *= factor.sign;
    result.log_abs += static_cast<double>(multiplicity) * factor.log_abs;
  }
  return result;
}

std::optional<at::Tensor> Kronecker::eigenvalues() const {
  if (!is_symmetric()) return std::nullopt;
  std::vector<at::Tensor> values;
  for (const at::Tensor& s : factors_) {
    values.push_back(detail::symmetric_eigenvalues(s, describe()));
  }
  return outer(values);
}

OperatorPtr Kronecker::function(const SpectralFunction& f) const {
  if (!is_symmetric()) return nullptr;
  std::vector<at::Tensor> vectors;
  std::vector<at::Tensor> values;
  for (const at::Tensor& s : factors_) {
    auto eigen = detail::symmetric_eigen(s, describe());
    vectors.push_back(std::move(eigen.vectors));
    values.push_back(std::move(eigen.values));
  }
  OperatorPtr basis = kronecker(vectors, Space::flat(cols()), spec().range);
  return eigen_decomposed(std::move(basis), f(outer(values)));
}

OperatorPtr Kronecker::inverse() const {
  if (rows() != cols()) return nullptr;
  if (rows() == 0) return zero(spec().range, spec().domain, detail::options_of(*this));
  CURVATURE_CHECK(has_square_factors(), NumericalError,
                  "{}: inverse of a singular operator; its factors are not square", describe());
  std::vector<at::Tensor> inverses;
  for (const at::Tensor& s : factors_) {
    inverses.push_back(detail::inverse_matrix(s, spec().symmetry, describe()));
  }
  return kronecker(inverses, spec().range, spec().domain,
                   detail::inverse_symmetry(spec().symmetry));
}

OperatorPtr Kronecker::square_root_factor() const {
  if (spec().symmetry < Symmetry::kPositiveSemidefinite) {
    return LinearOperator::square_root_factor();
  }
  std::vector<at::Tensor> roots;
  for (const at::Tensor& s : factors_) roots.push_back(detail::square_root_matrix(s, describe()));
  return kronecker(roots, Space::flat(cols()), spec().range);
}

}  // namespace

OperatorPtr kronecker(const std::vector<at::Tensor>& factors, Symmetry symmetry) {
  int64_t rows = 1;
  int64_t cols = 1;
  for (const at::Tensor& s : factors) {
    const at::Tensor checked = detail::checked(s, 2, "kronecker");
    rows *= checked.size(0);
    cols *= checked.size(1);
  }
  return kronecker(factors, Space::flat(cols), Space::flat(rows), symmetry);
}

OperatorPtr kronecker(const std::vector<at::Tensor>& factors, Space domain, Space range,
                      Symmetry symmetry) {
  CURVATURE_CHECK(!factors.empty(), OptionError, "kronecker: needs at least one factor");
  std::vector<at::Tensor> checked;
  int64_t rows = 1;
  int64_t cols = 1;
  for (const at::Tensor& s : factors) {
    checked.push_back(detail::checked(s, 2, "kronecker"));
    detail::check_like(s, factors.front(), "kronecker");
    CURVATURE_CHECK(symmetry == Symmetry::kGeneral || s.size(0) == s.size(1), ShapeError,
                    "kronecker: factors of a symmetric product are square; got {}",
                    detail::to_string(s.sizes()));
    rows *= s.size(0);
    cols *= s.size(1);
  }
  CURVATURE_CHECK(rows == range.size() && cols == domain.size(), ShapeError,
                  "kronecker: the factors do not fit the spaces; expected {}x{}, got {}x{}",
                  range.size(), domain.size(), rows, cols);
  OperatorSpec spec =
      detail::spec_like(std::move(domain), std::move(range), checked.front(), symmetry);
  return std::make_shared<Kronecker>(std::move(spec), std::move(checked));
}

}  // namespace curvature
