#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <curvature/spectral/hutchinson.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "spectral/sampling.hpp"

namespace curvature {
namespace {

using detail::SampleMean;

/// Regression of each entry of A z on that of z through the origin, one probe after the other: for
/// signs, mean and variance of z * (A z). In float64.
class DiagonalMean {
 public:
  explicit DiagonalMean(const LinearOperator& a)
      : values_(at::zeros({a.rows()}, detail::options_of(a).dtype(at::kDouble))),
        weights_(values_.clone()),
        squares_(values_.clone()) {}

  void add(const at::Tensor& probe, const at::Tensor& product) {
    const at::Tensor z = probe.to(at::kDouble);
    const at::Tensor az = product.to(at::kDouble);
    ++count_;
    weights_.addcmul_(z, z);
    const at::Tensor residual = az - values_ * z;
    values_.add_(z * residual / weights_);
    squares_.addcmul_(residual, az - values_ * z);
  }

  const at::Tensor& values() const { return values_; }
  /// Undefined with a single probe.
  at::Tensor standard_errors() const {
    if (count_ < 2) return {};
    return (squares_ / weights_ / static_cast<double>(count_ - 1)).clamp_min_(0).sqrt_();
  }
  int64_t count() const { return count_; }

 private:
  int64_t count_ = 0;
  at::Tensor values_;
  at::Tensor weights_;  ///< sum of z^2
  at::Tensor squares_;  ///< of the residuals
};

}  // namespace

Estimate hutchinson_trace(OperatorRef a, const EstimateOptions& options) {
  detail::check_square(*a, "hutchinson_trace");
  detail::check_options(options, "hutchinson_trace");
  const at::NoGradGuard no_grad;
  SampleMean samples;
  const Termination termination = detail::draw_samples(
      {options, "Hutchinson trace", options.samples},
      [&](int64_t first, int64_t count) {
        const at::Tensor z = draw_probes(options.random, options.probe, a->cols(), first, count,
                                         detail::options_of(*a));
        samples.add(detail::column_dots(z, a->apply(z)), *a);
      },
      [&] { return detail::is_accurate(options, detail::to_estimate(samples)); });
  Estimate estimate = detail::to_estimate(samples);
  estimate.products = samples.count();
  estimate.termination = termination;
  return estimate;
}

DiagonalEstimate hutchinson_diagonal(OperatorRef a, const EstimateOptions& options) {
  detail::check_square(*a, "hutchinson_diagonal");
  detail::check_options(options, "hutchinson_diagonal");
  const at::NoGradGuard no_grad;
  DiagonalMean mean(*a);
  const Termination termination = detail::draw_samples(
      {options, "Hutchinson diagonal", options.samples},
      [&](int64_t first, int64_t count) {
        const at::Tensor z = draw_probes(options.random, options.probe, a->cols(), first, count,
                                         detail::options_of(*a));
        const at::Tensor az = a->apply(z);
        for (int64_t i = 0; i < count; ++i) mean.add(z.select(1, i), az.select(1, i));
      },
      [&] {
        return detail::is_accurate(
            options,
            DiagonalEstimate{.values = mean.values(), .standard_errors = mean.standard_errors()});
      });
  CURVATURE_CHECK(detail::is_finite(mean.values()), NumericalError,
                  "hutchinson_diagonal: a product of {} is not finite", a->describe());
  DiagonalEstimate estimate{.values = mean.values().to(a->spec().dtype),
                            .samples = mean.count(),
                            .products = mean.count(),
                            .termination = termination};
  const at::Tensor errors = mean.standard_errors();
  if (errors.defined()) estimate.standard_errors = errors.to(a->spec().dtype);
  return estimate;
}

FrobeniusEstimate hutchinson_frobenius_norm(OperatorRef a, const EstimateOptions& options) {
  detail::check_options(options, "hutchinson_frobenius_norm");
  const at::NoGradGuard no_grad;
  const bool by_adjoint = a->rows() < a->cols() && detail::has_adjoint(*a);
  SampleMean squares;
  const Termination termination = detail::draw_samples(
      {options, "Hutchinson Frobenius norm", options.samples},
      [&](int64_t first, int64_t count) {
        const at::Tensor z =
            draw_probes(options.random, options.probe, by_adjoint ? a->rows() : a->cols(), first,
                        count, detail::options_of(*a));
        const at::Tensor az = by_adjoint ? a->apply_adjoint(z) : a->apply(z);
        squares.add(detail::column_dots(az, az), *a);
      },
      [&] {
        return detail::is_accurate(options, detail::square_root(detail::to_estimate(squares)));
      });
  FrobeniusEstimate estimate{.squared_norm = detail::to_estimate(squares)};
  estimate.squared_norm.products = squares.count();
  estimate.squared_norm.termination = termination;
  estimate.norm = detail::square_root(estimate.squared_norm);
  return estimate;
}

}  // namespace curvature
