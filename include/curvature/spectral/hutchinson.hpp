#pragma once

#include <curvature/spectral/estimate.hpp>
#include <curvature/spectral/operator_ref.hpp>

/// \file
/// Means over random vectors z with E z z^T = I; one product per sample, memory for
/// `columns_at_once` vectors. Hutchinson, Commun. Statist. Simula. 19(2), 1990; Girard, Numer.
/// Math. 56, 1989.

namespace curvature {

/// Trace as the mean of z^T A z, unbiased for every square operator. For a symmetric A one sample
/// has the variance
///
///     signs     2 (|A|_F^2 - sum_i a_ii^2)
///     Gaussian  2 |A|_F^2
///     sphere    2 n / (n + 2) (|A|_F^2 - tr(A)^2 / n)
///
/// @throws ShapeError if `a` is not square, OptionError, NumericalError if a product is not finite
Estimate hutchinson_trace(OperatorRef a, const EstimateOptions& options = {});

/// Diagonal as sum z * (A z) / sum z * z entry by entry, unbiased for every square operator. With
/// signs the variance of one sample is sum_{j != i} a_ij^2; other probes weigh samples by z_i^2.
/// Bekas, Kokiopoulou, Saad, Appl. Numer. Math. 57, 2007.
/// @throws as `hutchinson_trace`
DiagonalEstimate hutchinson_diagonal(OperatorRef a, const EstimateOptions& options = {});

/// Frobenius norm from the mean of |A z|^2 (of |A^T z|^2 for an operator with fewer rows than
/// columns that has an adjoint), which estimates its square without bias.
/// @throws OptionError, NumericalError if a product is not finite
FrobeniusEstimate hutchinson_frobenius_norm(OperatorRef a, const EstimateOptions& options = {});

}  // namespace curvature
