#pragma once

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>

#include <curvature/core/progress.hpp>
#include <curvature/core/random.hpp>
#include <curvature/core/termination.hpp>

/// \file
/// What randomised estimators have in common. Every estimator is a function of its own (`xtrace`,
/// `hutchinson_diagonal`, ...) that takes an operator and these options, and answers with an
/// `Estimate` or a `DiagonalEstimate`.

namespace curvature {

/// How much an estimator may spend, and how accurate it is asked to be.
///
/// With a requested error (either of two) samples are judged after every `check_every` of them, by
/// their standard error and never by how little the mean moves. Sample i depends on the seed and on
/// i only, and the judgements do not depend on `columns_at_once`: chunking changes nothing beyond
/// rounding.
struct EstimateOptions {
  int64_t samples = 100;             ///< operator products that may be used
  Probe probe = Probe::kRademacher;  ///< distribution of the random vectors
  /// Stop when the standard error is at most this, in units of the value.
  std::optional<double> absolute_error = std::nullopt;
  /// Stop when the standard error is at most this times |value|. With both, the larger one counts.
  std::optional<double> relative_error = std::nullopt;
  int64_t check_every = 10;              ///< samples between judgements, and before the first one
  int64_t columns_at_once = 16;          ///< vectors multiplied together: memory against speed
  RandomSource random = RandomSource();  ///< of the probes
  Observer observer = {};                ///< sees the products
};

/// A number, and how well it is known.
struct Estimate {
  double value = 0;  ///< in the units of the quantity
  /// Standard deviation of `value` over seeds, estimated from the samples; empty where there is
  /// none: exact, or a single sample.
  std::optional<double> standard_error = std::nullopt;
  int64_t samples = 0;   ///< random vectors behind the mean; 0 without randomness
  int64_t products = 0;  ///< with the operator and its adjoint, single vectors
  bool exact = false;    ///< up to rounding
  /// `kMaxIterations`: the samples were spent before the requested error was reached.
  Termination termination = Termination::kConverged;
};

/// A vector, and how well each entry is known.
///
/// A requested error refers to the root mean square of the standard errors, relative to that of the
/// values.
struct DiagonalEstimate {
  at::Tensor values = {};           ///< `[n]`, in the operator's dtype on its device
  at::Tensor standard_errors = {};  ///< `[n]`; undefined where there are none, as in `Estimate`
  int64_t samples = 0;              ///< as in `Estimate`
  int64_t products = 0;             ///< as in `Estimate`
  bool exact = false;               ///< as in `Estimate`
  Termination termination = Termination::kConverged;  ///< as in `Estimate`
};

/// A Frobenius norm and its square, from the same samples.
struct FrobeniusEstimate {
  /// Square root of the other; its standard error by the delta method, to which a requested error
  /// refers.
  Estimate norm = {};
  Estimate squared_norm = {};  ///< without bias if it is randomised
};

}  // namespace curvature
