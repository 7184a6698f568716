#pragma once

#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/spectral/estimate.hpp>

#include "operators/support.hpp"

/// What randomised estimators share: checks, the loop over samples, means with standard errors.
namespace curvature::detail {

/// @throws ShapeError unless `a` is square
void check_square(const LinearOperator& a, std::string_view who);
/// @throws ShapeError for an operator without rows or columns
void check_not_empty(const LinearOperator& a, std::string_view who);
/// @throws OptionError
void check_options(const EstimateOptions& options, std::string_view who);
/// Whether `a` can multiply by its adjoint; asked with zero columns.
bool has_adjoint(const LinearOperator& a);

/// x_i^T y_i for the columns of X and Y, summed in float64.
at::Tensor column_dots(const at::Tensor& x, const at::Tensor& y);
/// Columns `first`, ..., `first + count - 1` of the identity `[n, count]`.
at::Tensor identity_columns(int64_t n, int64_t first, int64_t count,
                            const at::TensorOptions& options);
/// The entries of a vector on the host, in float64.
std::vector<double> to_host_vector(const at::Tensor& values);

/// Mean and standard error of numbers that come one after the other (Welford's update).
class SampleMean {
 public:
  void add(double value);
  /// Adds the entries of `values`, a product of `a`. @throws NumericalError if one is not finite
  void add(const at::Tensor& values, const LinearOperator& a);

  int64_t count() const { return count_; }
  double mean() const { return mean_; }
  /// Empty with fewer than two samples.
  std::optional<double> standard_error() const;

 private:
  int64_t count_ = 0;
  double mean_ = 0;
  double squares_ = 0;  ///< of the deviations from the mean
};

/// value + scale * (mean of samples); what it cost is left to the caller.
Estimate to_estimate(const SampleMean& samples, double offset = 0, double scale = 1);
/// The square root, by the delta method.
Estimate square_root(const Estimate& squared);

bool has_request(const EstimateOptions& options);
/// Whether the standard error is what `options` ask for.
bool is_accurate(const EstimateOptions& options, const Estimate& estimate);
bool is_accurate(const EstimateOptions& options, const DiagonalEstimate& estimate);

/// A loop over samples, as part of a longer computation.
struct SampleLoop {
  const EstimateOptions& options;
  std::string_view task;            ///< for the observer
  int64_t samples;                  ///< at most
  int64_t products_per_sample = 1;  ///< for the observer
  int64_t products_before = 0;      ///< for the observer
};

/// Calls `draw(first, count)` for consecutive chunks of samples until all are drawn or, if the
/// options request an error, `accurate()` after some multiple of `check_every` samples.
Termination draw_samples(const SampleLoop& loop,
                         const std::function<void(int64_t first, int64_t count)>& draw,
                         const std::function<bool()>& accurate);

/// `multiply` applied to the columns of X, `columns_at_once` at a time.
at::Tensor multiply_in_chunks(const at::Tensor& x, int64_t columns_at_once,
                              const std::function<at::Tensor(const at::Tensor&)>& multiply,
                              const std::function<void(int64_t done)>& report = {});

}  // namespace curvature::detail
