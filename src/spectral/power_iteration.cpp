#include <curvature/spectral/power_iteration.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/tensor.h>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "spectral/eigen_support.hpp"
#include "spectral/inner_products.hpp"

namespace curvature {
namespace {

/// Of a column `[n, 1]`.
double norm(const at::Tensor& x) { return detail::norm(x.reshape(-1)); }

constexpr const char* kPowerIteration = "power_iteration";

/// Finds one pair after another.
class PowerIteration {
 public:
  PowerIteration(const LinearOperator& a, const PowerIterationOptions& options)
      : a_(a),
        options_(options),
        vectors_(at::empty({options.count, a.rows()}, detail::tensor_options(a))) {}

  /// Appends the largest pair of the complement of those found.
  void find_next() {
    const auto number = static_cast<int64_t>(values_.size());
    at::Tensor v =
        draw_probes(options_.random, Probe::kGaussian, a_.rows(), number, 1, vectors_.options());
    normalize(v, number);
    double value = 0;
    double residual = 0;
    bool converged = false;
    for (int64_t iteration = 0; iteration < options_.max_iterations; ++iteration) {
      at::Tensor w = a_.apply(v);
      ++products_;
      if (options_.observer) options_.observer({"Power iterations", products_, 0});
      value = detail::inner_products(v, w).item<double>();
      CURVATURE_CHECK(std::isfinite(value), NumericalError, "{}: product {} of {} is not finite",
                      kPowerIteration, products_, a_.describe());
      norm_ = std::max(norm_, std::abs(value));
      residual = norm(w - value * v);
      // Errors of the pairs before are not this one's to remove.
      project(w, number);
      converged = norm(w - value * v) <= allowed() / 2;
      // Of a vector of the null space nothing is left to go on with.
      if (converged || iteration + 1 == options_.max_iterations || norm(w) == 0) break;
      v = w;
      normalize(v, number);
    }
    vectors_.select(0, number).copy_(v.select(1, 0));
    values_.push_back(value);
    residuals_.push_back(residual);
    if (!converged) {
      termination_ = Termination::kMaxIterations;
    } else if (residual > allowed() && termination_ == Termination::kConverged) {
      termination_ = Termination::kStagnated;
    }
  }

  EigenpairsResult result() const {
    std::vector<int64_t> order(values_.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [this](int64_t i, int64_t j) {
      return std::abs(values_[i]) > std::abs(values_[j]);
    });
    EigenpairsResult result;
    for (const int64_t i : order) {
      result.top.values.push_back(values_[i]);
      result.top.residuals.push_back(residuals_[i]);
    }
    const at::Tensor indices = at::tensor(order, at::kLong).to(vectors_.device());
    result.top.vectors = vectors_.index_select(0, indices).t().contiguous();
    result.bottom.vectors = result.top.vectors.narrow(1, 0, 0).contiguous();
    result.products = products_;
    result.termination = termination_;
    return result;
  }

 private:
  double allowed() const { return detail::tolerance_of(a_, options_.tolerance) * norm_; }

  /// Removes the first `count` vectors from `v` `[n, 1]`.
  void project(at::Tensor& v, int64_t count) const {
    const at::Tensor found = vectors_.narrow(0, 0, count);
    if (count > 0) v = v - found.t().mm(detail::inner_products(found.t(), v).to(v.options()));
  }
  /// Makes `v` a unit vector orthogonal to the first `count` ones, also where little of it is.
  void normalize(at::Tensor& v, int64_t count) const {
    v = v / norm(v);
    project(v, count);
    v = v / norm(v);
  }

  const LinearOperator& a_;
  const PowerIterationOptions& options_;
  at::Tensor vectors_;  ///< rows
  std::vector<double> values_;
  std::vector<double> residuals_;
  double norm_ = 0;
  int64_t products_ = 0;
  Termination termination_ = Termination::kConverged;
};

}  // namespace

EigenpairsResult power_iteration(const LinearOperator& a, const PowerIterationOptions& options) {
  detail::check_symmetric(a, kPowerIteration);
  detail::check_selection(a, kPowerIteration, options.count, 0, EigenvalueOrder::kMagnitude);
  detail::check_tolerance(options.tolerance, kPowerIteration);
  CURVATURE_CHECK(options.max_iterations > 0, OptionError,
                  "{}: max_iterations must be positive; got {}", kPowerIteration,
                  options.max_iterations);
  const at::NoGradGuard no_grad;
  PowerIteration iteration(a, options);
  for (int64_t i = 0; i < options.count; ++i) iteration.find_next();
  return iteration.result();
}

EigenpairsResult power_iteration(const OperatorPtr& a, const PowerIterationOptions& options) {
  CURVATURE_CHECK(a != nullptr, OptionError, "{}: the operator is null", kPowerIteration);
  return power_iteration(*a, options);
}

}  // namespace curvature
