#include <algorithm>
#include <atomic>
#include <cmath>
#include <functional>
#include <memory>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_eigvalsh.h>
#include <ATen/ops/linalg_solve_triangular.h>

#include <curvature/operators/algebra.hpp>
#include <curvature/operators/decorators.hpp>
#include <curvature/spectral/comparison.hpp>

#include "core/check.hpp"
#include "spectral/checked_function.hpp"
#include "spectral/dense_spectrum.hpp"
#include "spectral/sampling.hpp"
#include "spectral/slq_traces.hpp"

namespace curvature {
namespace {

using detail::SampleMean;

void check_pair(const LinearOperator& a, const LinearOperator& b, std::string_view who) {
  CURVATURE_CHECK(a.rows() == b.rows() && a.cols() == b.cols(), ShapeError,
                  "{}: expected operators of the same size, got {} x {} and {} x {}", who, a.rows(),
                  a.cols(), b.rows(), b.cols());
  CURVATURE_CHECK(a.spec().dtype == b.spec().dtype && a.spec().device == b.spec().device,
                  DtypeDeviceError,
                  "{}: expected operators of the same dtype and device, got {} "
                  "on {} and {} on {}",
                  who, c10::toString(a.spec().dtype), a.spec().device.str(),
                  c10::toString(b.spec().dtype), b.spec().device.str());
}

void check_symmetric_pair(const OperatorPtr& a, const OperatorPtr& b, std::string_view who) {
  CURVATURE_CHECK(a != nullptr && b != nullptr, OptionError, "{}: an operator is null", who);
  check_pair(*a, *b, who);
  CURVATURE_CHECK(a->is_symmetric() && b->is_symmetric(), NotSupportedError,
                  "{}: expected symmetric operators, got {} and {}", who, a->describe(),
                  b->describe());
}

/// Half of x - 1 - log x, without cancellation around 1.
double divergence(double x) { return ((x - 1) - std::log1p(x - 1)) / 2; }

/// Means of squared lengths that belong together, and of their product.
struct PairedSquares {
  SampleMean distance;  ///< |(A - B) z|^2
  SampleMean norm;      ///< |A z|^2
  std::vector<double> distances = {};
  std::vector<double> norms = {};

  void add(const at::Tensor& x, const at::Tensor& y, const LinearOperator& a) {
    distance.add(x, a);
    norm.add(y, a);
    for (const double value : detail::to_host_vector(x)) distances.push_back(value);
    for (const double value : detail::to_host_vector(y)) norms.push_back(value);
  }

  Estimate absolute() const { return detail::square_root(detail::to_estimate(distance)); }

  /// The ratio of the means r has the error of the mean of (d_i - r n_i) / mean n.
  Estimate relative() const {
    const double ratio = distance.mean() / norm.mean();
    SampleMean deviations;
    for (size_t i = 0; i < norms.size(); ++i) deviations.add(distances[i] - ratio * norms[i]);
    Estimate squared = detail::to_estimate(deviations, 0, 1 / norm.mean());
    squared.value = ratio;
    return detail::square_root(squared);
  }
};

}  // namespace

OperatorPtr whitened(const OperatorPtr& a, const OperatorPtr& b,
                     const LanczosFunctionOptions& options) {
  check_symmetric_pair(a, b, "whitened");
  const OperatorPtr root = inverse_square_root(b, options);
  return declare_symmetry(product({root, a, root}), a->spec().symmetry);
}

Estimate gaussian_divergence(const OperatorPtr& a, const OperatorPtr& b,
                             const StochasticLanczosOptions& options,
                             const LanczosFunctionOptions& root) {
  check_symmetric_pair(a, b, "gaussian_divergence");
  const auto counter = std::make_shared<std::atomic<int64_t>>(0);
  const OperatorPtr ratio = whitened(counting(a, counter), counting(b, counter), root);
  Estimate estimate =
      detail::slq_traces(*ratio,
                         {{"gaussian_divergence", divergence, detail::FunctionDomain::kPositive}},
                         options, "gaussian_divergence")
          .front();
  estimate.products = counter->load();
  return estimate;
}

Estimate exact_gaussian_divergence(const OperatorPtr& a, const OperatorPtr& b,
                                   const ExactOptions& options) {
  check_symmetric_pair(a, b, "exact_gaussian_divergence");
  detail::check_options(options, "exact_gaussian_divergence");
  const at::NoGradGuard no_grad;
  const at::Tensor matrix = detail::symmetric_matrix(*a, options, "exact_gaussian_divergence");
  const auto [factor, failed] =
      at::linalg_cholesky_ex(detail::symmetric_matrix(*b, options, "exact_gaussian_divergence"));
  CURVATURE_CHECK(failed.item<int64_t>() == 0, NumericalError,
                  "exact_gaussian_divergence: {} is not positive definite; add damping",
                  b->describe());
  // L^-1 A L^-T has the eigenvalues of B^-1 A.
  const at::Tensor half = at::linalg_solve_triangular(factor, matrix, /*upper=*/false);
  const at::Tensor ratio = at::linalg_solve_triangular(factor, half.t(), /*upper=*/false);
  const detail::CheckedFunction f("exact_gaussian_divergence", divergence,
                                  detail::FunctionDomain::kPositive);
  double sum = 0;
  for (const double value : f(detail::to_host_vector(at::linalg_eigvalsh(ratio)), *a)) sum += value;
  return {.value = sum, .products = a->rows() + b->rows(), .exact = true};
}

FrobeniusDistance frobenius_distance(OperatorRef a, OperatorRef b, const EstimateOptions& options) {
  check_pair(*a, *b, "frobenius_distance");
  detail::check_options(options, "frobenius_distance");
  const at::NoGradGuard no_grad;
  PairedSquares squares;
  const Termination termination = detail::draw_samples(
      {options, "Frobenius distance", options.samples, 2},
      [&](int64_t first, int64_t count) {
        const at::Tensor z = draw_probes(options.random, options.probe, a->cols(), first, count,
                                         detail::options_of(*a));
        const at::Tensor az = a->apply(z);
        const at::Tensor difference = az - b->apply(z);
        squares.add(detail::column_dots(difference, difference), detail::column_dots(az, az), *a);
      },
      [&] { return detail::is_accurate(options, squares.absolute()); });
  FrobeniusDistance distance{squares.absolute(), squares.relative()};
  for (Estimate* estimate : {&distance.absolute, &distance.relative}) {
    estimate->products = 2 * squares.norm.count();
    estimate->termination = termination;
  }
  return distance;
}

FrobeniusDistance exact_frobenius_distance(OperatorRef a, OperatorRef b,
                                           const ExactOptions& options) {
  check_pair(*a, *b, "exact_frobenius_distance");
  detail::check_options(options, "exact_frobenius_distance");
  const at::NoGradGuard no_grad;
  double distance = 0;
  double norm = 0;
  const int64_t n = a->cols();
  for (int64_t first = 0; first < n; first += options.columns_at_once) {
    const int64_t count = std::min(options.columns_at_once, n - first);
    const at::Tensor unit = detail::identity_columns(n, first, count, detail::options_of(*a));
    const at::Tensor columns = a->apply(unit);
    const at::Tensor difference = columns - b->apply(unit);
    distance += detail::column_dots(difference, difference).sum().item<double>();
    norm += detail::column_dots(columns, columns).sum().item<double>();
    if (options.observer) options.observer({"Frobenius distance", 2 * (first + count), 2 * n});
  }
  CURVATURE_CHECK(std::isfinite(distance) && std::isfinite(norm), NumericalError,
                  "exact_frobenius_distance: a product of {} or {} is not finite", a->describe(),
                  b->describe());
  const Estimate absolute{.value = std::sqrt(distance), .products = 2 * n, .exact = true};
  Estimate relative = absolute;
  relative.value = std::sqrt(distance / norm);
  return {absolute, relative};
}

}  // namespace curvature
