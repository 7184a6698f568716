#include <algorithm>
#include <cmath>
#include <functional>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/stack.h>

#include <curvature/spectral/eigenpairs.hpp>

#include "core/check.hpp"
#include "spectral/eigen_support.hpp"
#include "spectral/sampling.hpp"
#include "spectral/spectra_solver.hpp"

namespace curvature {
namespace {

using detail::LargestPairs;
using detail::ShiftedProduct;

constexpr int64_t kDenseSize = 256;   // up to here, n products cost less than restarts
constexpr int64_t kSearchSteps = 20;  // vectors of a restarted run that looks for a missed copy
constexpr double kSearchTolerance = 1e-2;  // where that run begins, see `Iteration::search`
constexpr double kPerturbation = 1e-3;     // of the vector where a run begins
constexpr int64_t kExtraVectors = 20;      // of the Krylov space, beyond twice the wanted pairs

void check_options(const LinearOperator& a, const EigenpairsOptions& options) {
  detail::check_symmetric(a, "eigenpairs");
  detail::check_selection(a, "eigenpairs", options.count, options.count_bottom, options.order);
  detail::check_tolerance(options.tolerance, "eigenpairs");
  CURVATURE_CHECK(options.max_restarts >= 0, OptionError,
                  "eigenpairs: max_restarts must not be negative; got {}", options.max_restarts);
}

/// Eigenvectors in float64 into the operator's dtype, on its device.
at::Tensor to_operator(const LinearOperator& a, const at::Tensor& vectors) {
  return vectors.to(detail::tensor_options(a)).contiguous();
}

// --- dense -------------------------------------------------------------------------------------

/// Eigenpairs without their residuals, and what is needed to judge those.
struct Found {
  EigenpairsResult result;
  double norm;  ///< of the operator
  bool converged = true;
};

Found dense_eigenpairs(const LinearOperator& a, const EigenpairsOptions& options) {
  const int64_t n = a.rows();
  if (options.observer) options.observer({"Dense matrix", 0, n});
  at::Tensor matrix = materialize(a).to(at::kDouble);
  if (options.observer) options.observer({"Dense matrix", n, n});
  CURVATURE_CHECK(std::isfinite(matrix.sum().item<double>()), NumericalError,
                  "eigenpairs: the matrix of {} is not finite", a.describe());
  const auto [values, vectors] = at::linalg_eigh((matrix + matrix.t()) / 2);

  Found found{.result = {.products = n, .dense = true}, .norm = values.abs().max().item<double>()};
  EigenpairsResult& result = found.result;
  const at::Tensor key = options.order == EigenvalueOrder::kMagnitude ? values.abs() : values;
  const at::Tensor top =
      key.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/true).narrow(0, 0, options.count);
  result.top.values = detail::to_host_vector(values.index_select(0, top));
  result.top.vectors = to_operator(a, vectors.index_select(1, top));
  result.bottom.values = detail::to_host_vector(values.narrow(0, 0, options.count_bottom));
  result.bottom.vectors = to_operator(a, vectors.narrow(1, 0, options.count_bottom));
  return found;
}

// --- iteration ---------------------------------------------------------------------------------

/// Finds the largest eigenpairs of sign A, for both signs, and counts.
class Iteration {
 public:
  Iteration(const LinearOperator& a, const EigenpairsOptions& options)
      : a_(a),
        options_(options),
        tolerance_(detail::tolerance_of(a, options.tolerance)),
        scale_(detail::estimate_norm(a, random_vector().to(detail::tensor_options(a)))),
        products_(scale_.products) {}

  double norm() const { return scale_.norm; }
  int64_t products() const { return products_; }
  bool converged() const { return converged_; }

  /// `count` eigenpairs of A: the largest (sign 1, largest first) or smallest (-1, smallest first).
  Eigenpairs extreme(double sign, int64_t count) {
    if (count == 0) return {{}, to_operator(a_, at::empty({a_.rows(), 0}, at::kDouble)), {}};
    // Spectra's thresholds are partly absolute and its tolerance is relative to each eigenvalue. So
    // it gets a positive semidefinite operator whose largest eigenvalue lies between 1 and 2.
    const double unit = scale_.norm > 0 ? scale_.norm : 1;
    const double largest = (sign > 0 ? scale_.largest : -scale_.smallest) / unit;
    const double shift = 1 + std::max(0.0, -largest);
    ShiftedProduct product(a_, sign / unit, shift, observer());
    LargestPairs found = run(product, random_vector(), count);
    insert_missed_copies(product, found);
    products_ += product.products();
    converged_ = converged_ && found.converged;

    Eigenpairs pairs;
    for (const double value : found.values) {
      pairs.values.push_back(sign * scale_.norm * (value - shift) +
                             0.0);  // no -0 for a zero operator
    }
    pairs.vectors = to_operator(a_, found.vectors);
    return pairs;
  }

 private:
  at::Tensor random_vector() { return options_.random.normal(next_stream_++, a_.rows()); }

  /// A vector close to `unit`. An eigenvector to rounding is no start for Spectra: it normalises
  /// the rounding that is left of the first product, and the basis is not orthogonal.
  at::Tensor near(const at::Tensor& unit) {
    const at::Tensor noise = random_vector();
    return unit + noise * (kPerturbation / noise.norm());
  }

  Observer observer() const {
    if (!options_.observer) return {};
    return [this](const Progress& progress) {
      options_.observer({progress.task, products_ + progress.done, progress.total});
    };
  }

  LargestPairs run(ShiftedProduct& product, const at::Tensor& start, int64_t count) const {
    const int64_t subspace = std::min(2 * count + kExtraVectors, a_.rows());
    return detail::restarted_lanczos(product, start,
                                     {count, subspace, options_.max_restarts, tolerance_ / 2});
  }

  /// Looks for eigenvalues larger than the smallest one found, in the complement of what was found.
  void insert_missed_copies(ShiftedProduct& product, LargestPairs& found) {
    const int64_t count = static_cast<int64_t>(found.values.size());
    // Each copy pushes out the smallest value, so `count` rounds leave nothing to look for.
    for (int64_t round = 0; round < count && found.converged; ++round) {
      if (found.values.front() - found.values.back() <= tolerance_) return;
      product.deflate(found.vectors);
      const LargestPairs next = search(product, found.values.back());
      // No Ritz value exceeds the largest eigenvalue, so a larger one than found is a proof.
      if (next.values[0] <= found.values.back() + tolerance_) return;
      insert(run(product, near(next.vectors.select(1, 0)), 1), found);
    }
  }

  /// The largest pair of the deflated product, as well as it takes to see that it exceeds `bound`
  /// or, its residual being a tenth of the distance, stays below.
  LargestPairs search(ShiftedProduct& product, double bound) {
    LargestPairs best;
    at::Tensor start = random_vector();
    for (double tolerance = kSearchTolerance;; tolerance /= 10) {
      best = detail::restarted_lanczos(
          product, start,
          {1, kSearchSteps, options_.max_restarts, std::max(tolerance, tolerance_)});
      const double distance = bound - best.values[0];
      if (distance < -tolerance_ || tolerance <= distance / 10 || tolerance <= tolerance_)
        return best;
      start = near(best.vectors.select(1, 0));
    }
  }

  /// Puts `copy`, one pair, where its value belongs and drops the last pair.
  static void insert(const LargestPairs& copy, LargestPairs& found) {
    const auto position = std::upper_bound(found.values.begin(), found.values.end(), copy.values[0],
                                           std::greater<>());
    const int64_t before = position - found.values.begin();
    const int64_t after = found.values.end() - position;
    if (after == 0) return;  // only for an operator that is not symmetric after all
    found.values.insert(position, copy.values[0]);
    found.values.pop_back();
    found.vectors = at::cat({found.vectors.narrow(1, 0, before), copy.vectors,
                             found.vectors.narrow(1, before, after - 1)},
                            1);
    found.converged = found.converged && copy.converged;
  }

  const LinearOperator& a_;
  const EigenpairsOptions& options_;
  double tolerance_;
  uint64_t next_stream_ = 0;
  detail::NormEstimate scale_;
  int64_t products_;
  bool converged_ = true;
};

/// Of the largest and the smallest `count` eigenpairs those of largest magnitude.
Eigenpairs merge_by_magnitude(const Eigenpairs& top, const Eigenpairs& bottom) {
  const size_t count = top.values.size();
  Eigenpairs merged;
  TensorList vectors;
  for (size_t i = 0, j = 0; i + j < count;) {
    const bool from_top = top.values[i] >= -bottom.values[j];
    const Eigenpairs& source = from_top ? top : bottom;
    const size_t k = from_top ? i++ : j++;
    merged.values.push_back(source.values[k]);
    vectors.push_back(source.vectors.select(1, static_cast<int64_t>(k)));
  }
  merged.vectors = at::stack(vectors, 1);
  return merged;
}

Found iterate_eigenpairs(const LinearOperator& a, const EigenpairsOptions& options) {
  const bool by_magnitude = options.order == EigenvalueOrder::kMagnitude;
  Iteration iteration(a, options);
  EigenpairsResult result;
  result.top = iteration.extreme(1, options.count);
  result.bottom = iteration.extreme(-1, by_magnitude ? options.count : options.count_bottom);
  if (by_magnitude) {
    result.top = merge_by_magnitude(result.top, result.bottom);
    result.bottom = iteration.extreme(-1, 0);
  }
  result.products = iteration.products();
  return {std::move(result), iteration.norm(), iteration.converged()};
}

}  // namespace

EigenpairsResult eigenpairs(const LinearOperator& a, const EigenpairsOptions& options) {
  check_options(a, options);
  const at::NoGradGuard no_grad;
  const int64_t total = options.order == EigenvalueOrder::kMagnitude
                            ? 2 * options.count
                            : options.count + options.count_bottom;
  const bool dense = a.rows() <= kDenseSize || total > a.rows() / 4;
  auto [result, norm, converged] =
      dense ? dense_eigenpairs(a, options) : iterate_eigenpairs(a, options);
  detail::measure_residuals(a, detail::tolerance_of(a, options.tolerance), norm, result);
  if (!converged) result.termination = Termination::kMaxIterations;
  return std::move(result);
}

EigenpairsResult eigenpairs(const OperatorPtr& a, const EigenpairsOptions& options) {
  CURVATURE_CHECK(a != nullptr, OptionError, "eigenpairs: the operator is null");
  return eigenpairs(*a, options);
}

}  // namespace curvature
