#include "spectral/sampling.hpp"

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "core/check.hpp"
#include "core/inner_product.hpp"

namespace curvature::detail {

void check_not_empty(const LinearOperator& a, std::string_view who) {
  CURVATURE_CHECK(
      a.rows() > 0 && a.cols() > 0, ShapeError,
      "{}: the operator is empty; expected rows and columns, got {} with {} rows and {} "
      "columns",
      who, a.describe(), a.rows(), a.cols());
}

void check_square(const LinearOperator& a, std::string_view who) {
  CURVATURE_CHECK(a.rows() == a.cols(), ShapeError,
                  "{}: expected a square operator, got {} with {} rows and {} columns", who,
                  a.describe(), a.rows(), a.cols());
  check_not_empty(a, who);
}

void check_options(const EstimateOptions& options, std::string_view who) {
  CURVATURE_CHECK(options.samples > 0, OptionError, "{}: samples must be positive; got {}", who,
                  options.samples);
  CURVATURE_CHECK(options.columns_at_once > 0, OptionError,
                  "{}: columns_at_once must be positive; got {}", who, options.columns_at_once);
  CURVATURE_CHECK(options.check_every >= 2, OptionError,
                  "{}: expected check_every of at least 2 (one sample has no standard error), "
                  "got {}",
                  who, options.check_every);
  for (const std::optional<double>& error : {options.absolute_error, options.relative_error}) {
    CURVATURE_CHECK(!error || *error > 0, OptionError,
                    "{}: a requested standard error must be positive; got {}", who, *error);
  }
}

bool has_adjoint(const LinearOperator& a) {
  if (a.is_symmetric()) return true;
  try {
    a.apply_adjoint(at::zeros({a.rows(), 0}, options_of(a)));
    return true;
  } catch (const NotSupportedError&) {
    return false;
  }
}

at::Tensor column_dots(const at::Tensor& x, const at::Tensor& y) {
  if (x.is_cpu() && x.stride(0) == 1 && y.stride(0) == 1) {  // contiguous columns
    std::vector<double> dots;
    for (int64_t i = 0; i < x.size(1); ++i) dots.push_back(inner(x.select(1, i), y.select(1, i)));
    return at::tensor(dots, at::kDouble);
  }
  return (x * y).sum({0}, /*keepdim=*/false, at::kDouble);
}

at::Tensor identity_columns(int64_t n, int64_t first, int64_t count,
                            const at::TensorOptions& options) {
  at::Tensor columns = at::zeros({n, count}, options);
  columns.narrow(0, first, count).diagonal().fill_(1);
  return columns;
}

std::vector<double> to_host_vector(const at::Tensor& values) {
  const at::Tensor host = values.to(at::kCPU, at::kDouble).contiguous();
  const double* data = host.const_data_ptr<double>();
  return {data, data + host.numel()};
}

void SampleMean::add(double value) {
  ++count_;
  const double deviation = value - mean_;
  mean_ += deviation / static_cast<double>(count_);
  squares_ += deviation * (value - mean_);
}

void SampleMean::add(const at::Tensor& values, const LinearOperator& a) {
  for (const double value : to_host_vector(values)) {
    CURVATURE_CHECK(std::isfinite(value), NumericalError, "{}: a product is not finite",
                    a.describe());
    add(value);
  }
}

std::optional<double> SampleMean::standard_error() const {
  if (count_ < 2) return std::nullopt;
  const auto count = static_cast<double>(count_);
  return std::sqrt(squares_ / (count - 1) / count);
}

Estimate to_estimate(const SampleMean& samples, double offset, double scale) {
  Estimate estimate{.value = offset + scale * samples.mean(),
                    .standard_error = samples.standard_error(),
                    .samples = samples.count()};
  if (estimate.standard_error) *estimate.standard_error *= scale;
  return estimate;
}

Estimate square_root(const Estimate& squared) {
  Estimate root = squared;
  root.value = std::sqrt(std::max(squared.value, 0.0));
  if (root.standard_error) {
    // A mean of squares that is zero had no spread.
    root.standard_error = root.value > 0 ? *squared.standard_error / (2 * root.value) : 0;
  }
  return root;
}

bool has_request(const EstimateOptions& options) {
  return options.absolute_error || options.relative_error;
}

bool is_accurate(const EstimateOptions& options, const Estimate& estimate) {
  if (estimate.exact) return true;
  const double allowed = std::max(options.absolute_error.value_or(0),
                                  options.relative_error.value_or(0) * std::abs(estimate.value));
  return estimate.standard_error && *estimate.standard_error <= allowed;
}

bool is_accurate(const EstimateOptions& options, const DiagonalEstimate& estimate) {
  const auto root_mean_square = [](const at::Tensor& x) {
    return x.to(at::kDouble).norm().item<double>() / std::sqrt(static_cast<double>(x.numel()));
  };
  if (estimate.exact) return true;
  if (!estimate.standard_errors.defined()) return false;
  return is_accurate(options,
                     Estimate{.value = root_mean_square(estimate.values),
                              .standard_error = root_mean_square(estimate.standard_errors)});
}

Termination draw_samples(const SampleLoop& loop,
                         const std::function<void(int64_t first, int64_t count)>& draw,
                         const std::function<bool()>& accurate) {
  const EstimateOptions& options = loop.options;
  const bool requested = has_request(options);
  const int64_t period = requested ? options.check_every : loop.samples;
  const int64_t total = loop.products_before + loop.samples * loop.products_per_sample;
  for (int64_t done = 0; done < loop.samples;) {
    const int64_t count =
        std::min({options.columns_at_once, loop.samples - done, period - done % period});
    draw(done, count);
    done += count;
    if (options.observer) {
      options.observer({loop.task, loop.products_before + done * loop.products_per_sample, total});
    }
    if (requested && done % period == 0 && accurate()) return Termination::kConverged;
  }
  const bool missed = requested && (loop.samples < period || !accurate());
  return missed ? Termination::kMaxIterations : Termination::kConverged;
}

at::Tensor multiply_in_chunks(const at::Tensor& x, int64_t columns_at_once,
                              const std::function<at::Tensor(const at::Tensor&)>& multiply,
                              const std::function<void(int64_t done)>& report) {
  std::vector<at::Tensor> products;
  for (int64_t first = 0; first < x.size(1); first += columns_at_once) {
    const int64_t count = std::min(columns_at_once, x.size(1) - first);
    products.push_back(multiply(x.narrow(1, first, count)));
    if (report) report(first + count);
  }
  if (products.size() == 1) return products.front();
  if (products.front().stride(0) != 1) return at::cat(products, 1);
  for (at::Tensor& product : products) product = product.t();
  return at::cat(products, 0).t();  // columns that are contiguous stay so
}

}  // namespace curvature::detail
