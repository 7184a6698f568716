#pragma once

#include <cstdint>
#include <optional>

#include <curvature/core/linear_operator.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature {

/// How `shampoo` is made.
struct ShampooOptions {
  Observer observer = {};  ///< sees the examples
};

/// How `kl_shampoo` is made.
struct KlShampooOptions {
  /// Fits M + d I instead of M, d this number times the mean of M's diagonal (of each parameter). A
  /// positive one makes every fit unique and regular, however few the examples.
  double damping = 0;
  int64_t max_iterations = 10000;  ///< of a parameter, until its factors change by less than 1e-10
  /// Bytes for what the iteration reads; 0 computes gradients anew in each iteration. Empty:
  /// `default_memory_budget` of the device.
  std::optional<int64_t> memory_budget = {};
  Observer observer = {};  ///< sees the examples, and the parameters that are done
};

/// Shampoo's model of the gradients' second moment: A (x) B / tr A for each parameter.
///
/// A parameter is a matrix `[d0, rest]` (row-major); a vector has one column. A = f sum_n w_n
/// G_n G_n^T and B = f sum_n w_n G_n^T G_n, G_n the gradient of example n's own loss under the
/// risk's reduction, f = 1/N for `mean` and 1 for `sum`; weights are multiplicities. The trace is
/// that of M = f sum_n w_n g_n g_n^T, and for vectors the block is M. All parameters of any model;
/// those that it does not use give zero. Without weight decay. Computed in float64. Costs one
/// forward and backward pass per example. Closed forms: all. Gupta, Koren, Singer, ICML 2018, with
/// the scale of Morwani, Shapira, Vyas, Malach, Kakade, Janson, ICLR 2025.
/// @throws NotSupportedError if a side is longer than 8192; NumericalError for gradients that are
/// not finite
OperatorPtr shampoo(const EmpiricalRisk& risk, const ShampooOptions& options = {});

/// KL-Shampoo: for each parameter the A (x) B that minimises KL(N(0, M) || N(0, A (x) B)), M as for
/// `shampoo`: A = f sum_n w_n G_n B^-1 G_n^T / d2 and B = f sum_n w_n G_n^T A^-1 G_n / d1, one
/// after the other, from B = I. Loss and weights may have any scale.
///
/// Where gradients never point (dead units; rows that sum to zero, as in the last layer before a
/// softmax) A and B are singular: the problem is solved on the ranges of mean G G^T and
/// mean G^T G, d1 and d2 are their dimensions, inverses are pseudo-inverses. Directions whose
/// second moment is at the level of the model's rounding do not count. With fewer examples than
/// dimensions the minimiser may not be unique (the iteration from B = I chooses one), or there may
/// be none, which is an error.
///
/// Costs two forward and backward passes per example, and the iteration, whose steps read a
/// second moment (or the gradients, if they are much smaller), if that fits into the memory budget,
/// and pass over the examples if not. Closed forms: all. Lin et al., ICLR 2026.
/// @throws as `shampoo`; NumericalError that names a parameter without a minimiser; OptionError
OperatorPtr kl_shampoo(const EmpiricalRisk& risk, const KlShampooOptions& options = {});

}  // namespace curvature
