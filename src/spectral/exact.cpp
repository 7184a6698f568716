#include <algorithm>
#include <cmath>
#include <functional>

#include <ATen/core/grad_mode.h>

#include <curvature/spectral/exact.hpp>

#include "core/check.hpp"
#include "spectral/by_columns.hpp"
#include "spectral/checked_function.hpp"
#include "spectral/dense_spectrum.hpp"
#include "spectral/sampling.hpp"

namespace curvature {
namespace {

Estimate closed_form(double value) { return {.value = value, .exact = true}; }

double sum(const std::vector<double>& values) {
  double total = 0;
  for (const double value : values) total += value;
  return total;
}

}  // namespace

Estimate exact_trace(OperatorRef a, const ExactOptions& options) {
  detail::check_square(*a, "exact_trace");
  detail::check_options(options, "exact_trace");
  if (const auto trace = a->trace()) return closed_form(*trace);
  if (const auto diagonal = a->diagonal()) {
    return closed_form(diagonal->sum(at::kDouble).item<double>());
  }
  return detail::trace_by_columns(*a, options.columns_at_once, options.observer);
}

DiagonalEstimate exact_diagonal(OperatorRef a, const ExactOptions& options) {
  detail::check_square(*a, "exact_diagonal");
  detail::check_options(options, "exact_diagonal");
  if (const auto diagonal = a->diagonal()) return {.values = *diagonal, .exact = true};
  return detail::diagonal_by_columns(*a, options.columns_at_once, options.observer);
}

FrobeniusEstimate exact_frobenius_norm(OperatorRef a, const ExactOptions& options) {
  detail::check_options(options, "exact_frobenius_norm");
  if (const auto norm = a->frobenius_norm()) {
    return {.norm = closed_form(*norm), .squared_norm = closed_form(*norm * *norm)};
  }
  return detail::frobenius_norm_by_columns(*a, options.columns_at_once, options.observer);
}

Estimate exact_trace_of_function(OperatorRef a, const ScalarFunction& f,
                                 const ExactOptions& options) {
  detail::check_options(options, "exact_trace_of_function");
  const detail::CheckedFunction checked("exact_trace_of_function", f);
  const detail::Spectrum spectrum = detail::spectrum_of(*a, options, "exact_trace_of_function");
  return {.value = sum(checked(spectrum.values, *a)), .products = spectrum.products, .exact = true};
}

Estimate exact_log_determinant(OperatorRef a, const ExactOptions& options) {
  detail::check_options(options, "exact_log_determinant");
  if (a->spec().symmetry == Symmetry::kPositiveDefinite) {
    const auto determinant = a->log_determinant();
    if (determinant && determinant->sign > 0) return closed_form(determinant->log_abs);
  }
  const detail::Spectrum spectrum = detail::spectrum_of(*a, options, "exact_log_determinant");
  return {.value = sum(detail::log_function()(spectrum.values, *a)),
          .products = spectrum.products,
          .exact = true};
}

std::vector<Estimate> exact_effective_dimension(OperatorRef a, const std::vector<double>& dampings,
                                                const ExactOptions& options) {
  detail::check_options(options, "exact_effective_dimension");
  const std::vector<detail::CheckedFunction> functions = detail::effective_dimensions(dampings);
  const detail::Spectrum spectrum = detail::spectrum_of(*a, options, "exact_effective_dimension");
  std::vector<Estimate> estimates;
  for (const detail::CheckedFunction& f : functions) {
    estimates.push_back(
        {.value = sum(f(spectrum.values, *a)), .products = spectrum.products, .exact = true});
  }
  return estimates;
}

}  // namespace curvature
