#pragma once

#include <array>
#include <cstdint>

#include <ATen/core/Tensor.h>

#include <curvature/core/memory.hpp>

#include "layerwise/gradient_moments.hpp"

namespace curvature::detail {

/// A factor of a Kronecker product: A, on the rows of the gradients, or B, on their columns.
enum class Side { kRows, kColumns };

/// The product A x B that minimises KL(N(0, M) || N(0, A x B)) for the second moment M of
/// gradients, by alternating between its two stationarity equations. Who has the gradients gives
/// the sums.
///
/// It works in coordinates in which Shampoo's factors are identities, on their ranges: gradients
/// lose no digits there, and dead directions are gone.
class KroneckerFit {
 public:
  /// Fits M + d I, d `damping` times the mean of M's diagonal. Directions in which gradients are
  /// smaller than what `precision` resolves do not count.
  KroneckerFit(const KroneckerMoments& moments, double damping, at::ScalarType precision);

  /// Whether M is zero, and so are A and B.
  bool is_zero() const { return rank(Side::kRows) == 0; }
  /// Dimension of the range.
  int64_t rank(Side side) const { return at(side).spectrum.size(0); }
  /// Gradients `[K, rows, columns]` in the coordinates of the fit, `[K, rank, rank]`.
  at::Tensor transform(const at::Tensor& gradients) const;

  /// A^-1 or B^-1 in the coordinates of the fit.
  const at::Tensor& inverse(Side side) const { return at(side).inverse; }
  /// The factor's equation: `sum` is f sum_n w_n G_n B^-1 G_n^T in the coordinates of the fit, or
  /// with A^-1 its counterpart.
  /// @returns false if the factor becomes singular: there is no minimum
  bool update(Side side, const at::Tensor& sum);
  /// How much the last updates of both changed the product, relative to it in every direction.
  double change() const { return at(Side::kRows).change + at(Side::kColumns).change; }

  /// A and B in float64, of equal mean eigenvalues.
  KroneckerMoments factors() const;

 private:
  struct Factor {
    at::Tensor basis;     // U [d, r], of the range
    at::Tensor spectrum;  // l [r]: coordinates are diag(l)^-1/2 U^T x
    at::Tensor value;     // A in these coordinates, [r, r]
    at::Tensor cholesky;  // of `value`
    at::Tensor inverse;   // of `value`
    double change = 0;
  };

  const Factor& at(Side side) const { return factors_[static_cast<size_t>(side)]; }
  at::Tensor in_parameters(Side side) const;

  std::array<Factor, 2> factors_;
  double shift_ = 0;  // d
};

/// The second moment of gradients `[K, m, n]` for sums of P S P^T: as a matrix `[m n, m n]`, which
/// is quick, or as the gradients, if there are much fewer examples; if it fits into a budget.
class SecondMoment {
 public:
  SecondMoment(int64_t rows, int64_t columns, int64_t num_examples,
               const at::TensorOptions& options, MemoryBudget& budget);

  /// Whether it fits.
  bool is_kept() const { return matrix_.defined() || gradients_.defined(); }
  void add(const at::Tensor& gradients);
  /// After the last one.
  void finish();
  /// sum P S P^T for `kRows`, sum P^T S P for `kColumns`.
  at::Tensor sum(Side side, const at::Tensor& s) const;

 private:
  int64_t rows_, columns_;
  at::Tensor matrix_;     // sum of vec(P) vec(P)^T; finished: (i, k) by (j, l) for entries ij, kl
  at::Tensor gradients_;  // [N, m, n], if there is no matrix
  int64_t num_added_ = 0;
};

}  // namespace curvature::detail
