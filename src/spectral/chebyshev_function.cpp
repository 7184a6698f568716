#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <curvature/spectral/lanczos.hpp>
#include <curvature/spectral/matrix_function.hpp>

#include "core/check.hpp"
#include "spectral/sampling.hpp"

namespace curvature {
namespace {

struct Interval {
  double lower;
  double upper;

  double centre() const { return (lower + upper) / 2; }
  double half_width() const { return (upper - lower) / 2; }
};

/// The bounds that `options` give or, where they do not, an estimate.
Interval bounds(const LinearOperator& a, const ChebyshevOptions& options) {
  if (options.lower && options.upper) return {*options.lower, *options.upper};
  const at::Tensor start =
      draw_probes(options.random, Probe::kGaussian, a.cols(), 0, 1, detail::options_of(a));
  const LanczosResult run = lanczos(a, start.squeeze(1), {.num_steps = options.bound_steps});
  const RitzPairs ritz = ritz_pairs(run);
  const double smallest = ritz.values.front();
  const double largest = ritz.values.back();
  // A single eigenvalue needs an interval, too.
  const double margin = std::max({0.01 * (largest - smallest), 1e-6 * std::abs(largest), 1e-300});
  Interval interval{smallest - ritz.residuals.front() - margin,
                    largest + ritz.residuals.back() + margin};
  if (a.spec().symmetry >= Symmetry::kPositiveSemidefinite) {
    interval.lower = std::max(interval.lower, 0.0);
  }
  return {options.lower.value_or(interval.lower), options.upper.value_or(interval.upper)};
}

/// c_0, ..., c_degree with f(x) = sum c_j T_j((x - centre) / half_width) at the Chebyshev points.
std::vector<double> interpolate(const ScalarFunction& f, const Interval& interval, int64_t degree) {
  const int64_t count = degree + 1;
  const auto angle = [&](int64_t k) {
    return std::numbers::pi * (static_cast<double>(k) + 0.5) / static_cast<double>(count);
  };
  std::vector<double> coefficients(static_cast<size_t>(count));
  for (int64_t k = 0; k < count; ++k) {
    const double x = interval.centre() + interval.half_width() * std::cos(angle(k));
    const double value = f(x);
    CURVATURE_CHECK(std::isfinite(value), NumericalError,
                    "chebyshev_function: the function is not finite at {}, within the bounds {} "
                    "and {}; give bounds",
                    x, interval.lower, interval.upper);
    for (int64_t j = 0; j < count; ++j) {
      coefficients[static_cast<size_t>(j)] += (j == 0 ? 1 : 2) * value *
                                              std::cos(static_cast<double>(j) * angle(k)) /
                                              static_cast<double>(count);
    }
  }
  return coefficients;
}

class ChebyshevFunction final : public FlatOperator {
 public:
  ChebyshevFunction(OperatorPtr a, const Interval& interval, std::vector<double> coefficients,
                    OperatorSpec spec)
      : FlatOperator(std::move(spec)),
        a_(std::move(a)),
        interval_(interval),
        coefficients_(std::move(coefficients)) {}

  std::string describe() const override {
    return fmt::format("Chebyshev(degree={}, {})", coefficients_.size() - 1, a_->describe());
  }

 private:
  /// (A - centre) x / half_width, in a tensor of its own.
  at::Tensor mapped(const at::Tensor& x) const {
    return (a_->apply(x) - interval_.centre() * x).div_(interval_.half_width());
  }

  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    at::Tensor sum = coefficients_[0] * x;
    if (coefficients_.size() == 1) return sum;
    at::Tensor last = x.clone();
    at::Tensor current = mapped(x);
    sum.add_(current, coefficients_[1]);
    for (size_t j = 2; j < coefficients_.size(); ++j) {
      last.neg_().add_(mapped(current), 2);  // T_{j+1} = 2 x T_j - T_{j-1}
      std::swap(last, current);
      sum.add_(current, coefficients_[j]);
    }
    return sum;
  }

  OperatorPtr a_;
  Interval interval_;
  std::vector<double> coefficients_;
};

}  // namespace

OperatorPtr chebyshev_function(OperatorPtr a, ScalarFunction f, const ChebyshevOptions& options) {
  CURVATURE_CHECK(a != nullptr && f, OptionError,
                  "chebyshev_function: expected an operator and a function, got none");
  CURVATURE_CHECK(a->is_symmetric(), NotSupportedError,
                  "chebyshev_function: expected a symmetric operator, got {}", a->describe());
  CURVATURE_CHECK(options.degree >= 0 && options.bound_steps > 0, OptionError,
                  "chebyshev_function: expected degree >= 0 and bound_steps > 0, got {} and {}",
                  options.degree, options.bound_steps);
  const Interval interval = bounds(*a, options);
  CURVATURE_CHECK(interval.lower < interval.upper, OptionError,
                  "chebyshev_function: expected lower < upper, got {} and {}", interval.lower,
                  interval.upper);
  OperatorSpec spec = a->spec();
  spec.symmetry = Symmetry::kSymmetric;
  return std::make_shared<ChebyshevFunction>(
      std::move(a), interval, interpolate(f, interval, options.degree), std::move(spec));
}

}  // namespace curvature
