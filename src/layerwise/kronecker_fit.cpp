#include "layerwise/kronecker_fit.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/diag.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include "core/epsilon.hpp"
#include "core/finite.hpp"
#include "operators/support.hpp"

namespace curvature::detail {
namespace {

Side other(Side side) { return side == Side::kRows ? Side::kColumns : Side::kRows; }

/// Second moments below this, relative to the largest, are rounding: gradients have errors of a few
/// units in the last place of `precision`, and moments of float64.
double smallest_moment(at::ScalarType precision, int64_t dimension) {
  constexpr double kUnits = 32;
  const double gradients = kUnits * epsilon(precision);
  const double moments = 8 * static_cast<double>(dimension) * epsilon(at::kDouble);
  return std::max(gradients * gradients, moments);
}

/// |L^-1 X L^-T - I| / sqrt(rank): the change from L L^T to X, in every direction relative to what
/// was there.
double relative_change(const at::Tensor& cholesky, const at::Tensor& x) {
  const auto solve = [&](const at::Tensor& y) {
    return at::linalg_solve_triangular(cholesky, y, /*upper=*/false);
  };
  const at::Tensor ratio = solve(solve(x).t());
  return ((ratio - at::eye(x.size(0), x.options())).norm() / std::sqrt(x.size(0))).item<double>();
}

}  // namespace

KroneckerFit::KroneckerFit(const KroneckerMoments& moments, double damping,
                           at::ScalarType precision) {
  const auto rows = static_cast<double>(moments.rows.size(0));
  const auto columns = static_cast<double>(moments.columns.size(0));
  const double trace = moments.rows.trace().item<double>();
  shift_ = trace == 0 ? 0 : damping * trace / (rows * columns);
  for (const Side side : {Side::kRows, Side::kColumns}) {
    Factor& factor = factors_[static_cast<size_t>(side)];
    const SymmetricEigen eigen =
        symmetric_eigen(side == Side::kRows ? moments.rows : moments.columns, "kl_shampoo");
    const double multiplicity = side == Side::kRows ? columns : rows;
    at::Tensor values = eigen.values + shift_ * multiplicity;
    const double largest = values.numel() == 0 ? 0 : values.max().item<double>();
    const double smallest = largest * smallest_moment(precision, values.size(0));
    const at::Tensor kept = values.gt(smallest).nonzero().squeeze(1);
    factor.basis = eigen.vectors.index_select(1, kept);
    factor.spectrum = values.index_select(0, kept);
    // Shampoo is A x B / tr A: the scale goes to one side.
    if (side == Side::kColumns) factor.spectrum /= trace * (1 + damping);
    factor.inverse = at::diag(factor.spectrum);  // of the identity, in the fit's coordinates
  }
}

at::Tensor KroneckerFit::transform(const at::Tensor& gradients) const {
  const auto to_coordinates = [this](Side side) {
    return at(side).basis * at(side).spectrum.rsqrt();
  };
  return at::matmul(at::matmul(to_coordinates(Side::kRows).t(), gradients),
                    to_coordinates(Side::kColumns));
}

bool KroneckerFit::update(Side side, const at::Tensor& sum) {
  Factor& factor = factors_[static_cast<size_t>(side)];
  const Factor& counterpart = at(other(side));
  // The identity of the parameters is diag(1 / l) on each side.
  const at::Tensor shift =
      shift_ * (counterpart.inverse.diagonal() / counterpart.spectrum).sum() / factor.spectrum;
  at::Tensor value = (sum + at::diag(shift)) / static_cast<double>(rank(other(side)));
  value = (value + value.t()) / 2;
  // Only the product is determined: A has a mean eigenvalue of 1, B the rest.
  if (side == Side::kRows) value /= value.trace() / static_cast<double>(rank(side));
  const auto [cholesky, info] = at::linalg_cholesky_ex(value);
  if (info.item<int64_t>() != 0 || !detail::is_finite(cholesky)) return false;
  factor.change = factor.cholesky.defined() ? relative_change(factor.cholesky, value)
                                            : std::numeric_limits<double>::infinity();
  factor.value = std::move(value);
  factor.cholesky = cholesky;
  factor.inverse = at::cholesky_inverse(cholesky);
  return true;
}

at::Tensor KroneckerFit::in_parameters(Side side) const {
  const at::Tensor& basis = at(side).basis;
  if (is_zero()) return at::zeros({basis.size(0), basis.size(0)}, basis.options());
  const at::Tensor back = basis * at(side).spectrum.sqrt();
  return back.mm(at(side).value).mm(back.t());
}

KroneckerMoments KroneckerFit::factors() const {
  KroneckerMoments factors = {in_parameters(Side::kRows), in_parameters(Side::kColumns)};
  if (is_zero()) return factors;
  const at::Tensor ratio = factors.columns.diagonal().mean() / factors.rows.diagonal().mean();
  factors.rows *= ratio.sqrt();
  factors.columns /= ratio.sqrt();
  return factors;
}

SecondMoment::SecondMoment(int64_t rows, int64_t columns, int64_t num_examples,
                           const at::TensorOptions& options, MemoryBudget& budget)
    : rows_(rows), columns_(columns) {
  constexpr int64_t kBytes = 8;
  const int64_t size = rows * columns;
  // A sum takes m n m n products with the matrix, N m n (m + n) with the gradients. The entries of
  // the matrix are put in another order once, which takes a copy.
  if (size <= 4 * num_examples && budget.reserve(2 * kBytes * size * size)) {
    matrix_ = at::zeros({size, size}, options);
  } else if (budget.reserve(kBytes * size * num_examples)) {
    gradients_ = at::empty({num_examples, rows, columns}, options);
  }
}

void SecondMoment::add(const at::Tensor& gradients) {
  if (matrix_.defined()) {
    const at::Tensor flat = gradients.flatten(1);
    matrix_.addmm_(flat.t(), flat);
  } else {
    gradients_.narrow(0, num_added_, gradients.size(0)).copy_(gradients);
  }
  num_added_ += gradients.size(0);
}

void SecondMoment::finish() {
  if (!matrix_.defined()) return;
  matrix_ = matrix_.view({rows_, columns_, rows_, columns_})
                .permute({0, 2, 1, 3})
                .reshape({rows_ * rows_, columns_ * columns_});
}

at::Tensor SecondMoment::sum(Side side, const at::Tensor& s) const {
  const bool to_rows = side == Side::kRows;
  if (!matrix_.defined()) {
    return row_moment(to_rows ? gradients_ : gradients_.transpose(1, 2), s);
  }
  const int64_t size = to_rows ? rows_ : columns_;
  return (to_rows ? matrix_ : matrix_.t()).mv(s.reshape({-1})).reshape({size, size});
}

}  // namespace curvature::detail
