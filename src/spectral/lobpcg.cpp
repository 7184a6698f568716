#include <curvature/spectral/lobpcg.hpp>

#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/tensor.h>

#include "core/check.hpp"
#include "spectral/eigen_support.hpp"
#include "spectral/inner_products.hpp"
#include "spectral/sampling.hpp"

namespace curvature {
namespace {

constexpr const char* kLobpcg = "lobpcg";
constexpr int kMaxRefreshes = 3;  // of products that rounding made wrong

void check_like(const LinearOperator& a, const at::Tensor& start) {
  CURVATURE_CHECK(start.scalar_type() == a.spec().dtype && start.device() == a.spec().device,
                  DtypeDeviceError,
                  "{}: expected a start block of {} on {}, got {} on {}; convert it with .to()",
                  kLobpcg, c10::toString(a.spec().dtype), a.spec().device.str(),
                  c10::toString(start.scalar_type()), start.device().str());
}

void check_options(const LinearOperator& a, const LobpcgOptions& options) {
  detail::check_symmetric(a, kLobpcg);
  detail::check_selection(a, kLobpcg, options.count, 0, EigenvalueOrder::kAlgebraic);
  detail::check_tolerance(options.tolerance, kLobpcg);
  CURVATURE_CHECK(options.guard_vectors >= 0, OptionError,
                  "{}: guard_vectors must not be negative; got {}", kLobpcg, options.guard_vectors);
  CURVATURE_CHECK(options.max_iterations >= 0, OptionError,
                  "{}: max_iterations must not be negative; got {}", kLobpcg,
                  options.max_iterations);
  if (options.start.defined()) {
    CURVATURE_CHECK(options.start.dim() == 2 && options.start.size(0) == a.rows() &&
                        options.start.size(1) >= options.count && options.start.size(1) <= a.rows(),
                    ShapeError, "{}: expected a start block [{}, k] with {} <= k <= n, got {}",
                    kLobpcg, a.rows(), options.count, detail::to_string(options.start.sizes()));
    check_like(a, options.start);
  }
  if (options.preconditioner != nullptr) {
    const LinearOperator& inverse = *options.preconditioner;
    detail::check_symmetric(inverse, kLobpcg);
    CURVATURE_CHECK(inverse.rows() == a.rows(), ShapeError,
                    "{}: expected a preconditioner of size {}, got {}", kLobpcg, a.rows(),
                    inverse.describe());
    CURVATURE_CHECK(
        inverse.spec().dtype == a.spec().dtype && inverse.spec().device == a.spec().device,
        DtypeDeviceError, "{}: the preconditioner {} is of another dtype or device", kLobpcg,
        inverse.describe());
  }
}

/// Vectors `[n, k]` and their products with the operator.
struct Block {
  at::Tensor vectors;
  at::Tensor products;

  Block combined(const at::Tensor& coefficients) const {
    const at::Tensor map = coefficients.to(vectors.options());
    return {vectors.mm(map), products.mm(map)};
  }
};

Block joined(const std::vector<Block>& blocks) {
  std::vector<at::Tensor> vectors, products;
  for (const Block& block : blocks) {
    vectors.push_back(block.vectors);
    products.push_back(block.products);
  }
  return {at::cat(vectors, 1), at::cat(products, 1)};
}

/// The smallest eigenpairs of sign A.
class Lobpcg {
 public:
  Lobpcg(const LinearOperator& a, const LobpcgOptions& options, int64_t width)
      : a_(a), options_(options), sign_(options.largest ? -1 : 1) {
    const at::TensorOptions tensor_options = detail::tensor_options(a);
    const at::Tensor probe =
        draw_probes(options.random, Probe::kGaussian, a.rows(), 0, 1, tensor_options).select(1, 0);
    const detail::NormEstimate estimate = detail::estimate_norm(a, probe);
    products_ = estimate.products;
    norm_ = estimate.norm;
    const at::Tensor start =
        options.start.defined()
            ? options.start
            : draw_probes(options.random, Probe::kGaussian, a.rows(), 1, width, tensor_options);
    const at::Tensor vectors = detail::orthonormalize(start, {});
    CURVATURE_CHECK(vectors.size(1) >= options.count, OptionError,
                    "{}: expected a start block of rank {} at least, got {}", kLobpcg,
                    options.count, vectors.size(1));
    const at::Tensor none = vectors.narrow(1, 0, 0);
    step_ = {none, none};
    current_ = multiplied(vectors);
    project(current_, current_.vectors.size(1), {});
  }

  Termination run() {
    for (int64_t iteration = 0, refreshes = 0;; ++iteration) {
      at::Tensor residuals = measure();
      if (is_accurate()) {
        refresh();
        residuals = measure();
        if (is_accurate()) return Termination::kConverged;
        if (++refreshes > kMaxRefreshes) return Termination::kStagnated;
      }
      const at::Tensor active = not_converged();
      at::Tensor direction = residuals.index_select(1, active.to(a_.spec().device));
      if (options_.preconditioner) direction = options_.preconditioner->apply(direction);
      direction = detail::orthonormalize(direction, {current_.vectors, step_.vectors});
      const bool exhausted = direction.size(1) == 0;
      if (exhausted || iteration == options_.max_iterations) {
        refresh();
        measure();
        return exhausted ? Termination::kStagnated : Termination::kMaxIterations;
      }
      project(joined({current_, multiplied(direction), step_}), current_.vectors.size(1), active);
    }
  }

  EigenpairsResult result(Termination termination) const {
    EigenpairsResult result;
    result.products = products_;
    result.termination = termination;
    Eigenpairs found;
    for (int64_t i = 0; i < options_.count; ++i) {
      found.values.push_back(sign_ * values_[i] + 0.0);
      found.residuals.push_back(norms_[i]);
    }
    found.vectors = current_.vectors.narrow(1, 0, options_.count).contiguous();
    Eigenpairs nothing;
    nothing.vectors = found.vectors.narrow(1, 0, 0).contiguous();
    result.top = options_.largest ? found : nothing;
    result.bottom = options_.largest ? nothing : found;
    return result;
  }

 private:
  Block multiplied(const at::Tensor& vectors) {
    Block block{vectors, a_.apply(vectors)};
    CURVATURE_CHECK(std::isfinite(block.products.abs().max().item<double>()), NumericalError,
                    "{}: a product of {} is not finite", kLobpcg, a_.describe());
    if (sign_ < 0) block.products = -block.products;
    products_ += vectors.size(1);
    if (options_.observer) options_.observer({"LOBPCG products", products_, 0});
    return block;
  }

  /// Takes the best `width` vectors out of the span of `space`, whose vectors are orthonormal and
  /// begin with the current ones; their steps are what the `active` ones take from the others.
  void project(const Block& space, int64_t width, const at::Tensor& active) {
    const at::Tensor matrix = detail::inner_products(space.vectors, space.products);
    const auto [values, vectors] = at::linalg_eigh((matrix + matrix.t()) / 2);
    values_ = detail::to_host_vector(values);
    for (const double value : values_) norm_ = std::max(norm_, std::abs(value));
    values_.resize(width);
    const at::Tensor best = vectors.narrow(1, 0, width);
    if (active.defined()) {
      at::Tensor others = best.index_select(1, active);
      others.narrow(0, 0, width).zero_();
      step_ = space.combined(detail::orthonormalize(others, {best}));
    }
    current_ = space.combined(best);
  }

  /// Residuals of the current vectors, `[n, k]`, and their norms.
  at::Tensor measure() {
    const at::Tensor values = at::tensor(values_, at::kDouble).to(current_.vectors.options());
    at::Tensor residuals = current_.products - current_.vectors * values;
    norms_ = detail::column_norms(residuals);
    return residuals;
  }

  /// New products instead of those that were combined many times, and no steps.
  void refresh() {
    step_ = {current_.vectors.narrow(1, 0, 0), current_.vectors.narrow(1, 0, 0)};
    current_ = multiplied(detail::orthonormalize(current_.vectors, {}));
    project(current_, current_.vectors.size(1), {});
  }

  double allowed() const { return detail::tolerance_of(a_, options_.tolerance) * norm_; }
  bool is_accurate() const {
    return std::all_of(norms_.begin(), norms_.begin() + options_.count,
                       [this](double norm) { return norm <= allowed(); });
  }
  /// Numbers of the vectors that still need products. A guard vector does until the end.
  at::Tensor not_converged() const {
    std::vector<int64_t> active;
    for (size_t i = 0; i < norms_.size(); ++i) {
      if (norms_[i] > allowed() / 2) active.push_back(static_cast<int64_t>(i));
    }
    return at::tensor(active, at::kLong);
  }

  const LinearOperator& a_;
  const LobpcgOptions& options_;
  double sign_;
  double norm_ = 0;
  int64_t products_ = 0;
  Block current_;
  Block step_;  ///< orthonormal to the current ones
  std::vector<double> values_;
  std::vector<double> norms_;  ///< of the residuals
};

}  // namespace

EigenpairsResult lobpcg(const LinearOperator& a, const LobpcgOptions& options) {
  check_options(a, options);
  const at::NoGradGuard no_grad;
  const int64_t width =
      options.start.defined() ? options.start.size(1) : options.count + options.guard_vectors;
  if (width > a.rows() / 4) {
    return eigenpairs(a, {.count = options.largest ? options.count : 0,
                          .count_bottom = options.largest ? 0 : options.count,
                          .tolerance = options.tolerance,
                          .random = options.random,
                          .observer = options.observer});
  }
  Lobpcg iteration(a, options, width);
  const Termination termination = iteration.run();
  return iteration.result(termination);
}

EigenpairsResult lobpcg(const OperatorPtr& a, const LobpcgOptions& options) {
  CURVATURE_CHECK(a != nullptr, OptionError, "{}: the operator is null", kLobpcg);
  return lobpcg(*a, options);
}

}  // namespace curvature
