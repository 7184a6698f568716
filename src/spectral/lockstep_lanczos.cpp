#include "spectral/lockstep_lanczos.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/stack.h>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "spectral/eigen_support.hpp"
#include "spectral/inner_products.hpp"
#include "spectral/sampling.hpp"

namespace curvature::detail {
namespace {

/// One run: its vectors (all of them, or the last three), its coefficients, and where it stands.
class Run {
 public:
  Run(const at::Tensor& start, int64_t max_steps, bool keep_basis)
      : vectors_(at::empty({keep_basis ? max_steps + 1 : 3, start.size(0)}, start.options())),
        keep_basis_(keep_basis) {
    result_.start_norm = norm(start.contiguous());
    CURVATURE_CHECK(std::isfinite(result_.start_norm), NumericalError,
                    "lanczos: the start vector is not finite");
    CURVATURE_CHECK(result_.start_norm > 0, OptionError, "lanczos: the start vector is zero");
    vector(0).copy_(start).div_(result_.start_norm);
  }

  const LanczosResult& result() const { return result_; }
  /// v_{j+1}, after j steps.
  at::Tensor current() const { return vector(result_.num_steps()); }

  /// A step, given A times the current vector.
  void step(const at::Tensor& product, const LinearOperator& a) {
    const int64_t j = result_.num_steps();
    at::Tensor w = vector(j + 1);
    w.copy_(product);
    const auto [alpha, beta] = orthogonalize(w, j);
    CURVATURE_CHECK(std::isfinite(alpha) && std::isfinite(beta), NumericalError,
                    "lanczos: product {} of {} is not finite", j + 1, a.describe());
    scale_ = std::max({scale_, std::abs(alpha), beta});
    result_.breakdown = j + 1 == a.rows() || beta <= breakdown_threshold(a.spec().dtype) * scale_;
    result_.alphas.push_back(alpha);
    result_.betas.push_back(result_.breakdown ? 0 : beta);
    if (!result_.breakdown) w.div_(beta);
  }

  LanczosResult finish() {
    if (keep_basis_) {
      result_.basis = vectors_.narrow(0, 0, result_.num_steps());
      if (!result_.breakdown) result_.next = vector(result_.num_steps());
    }
    return std::move(result_);
  }

 private:
  at::Tensor vector(int64_t j) const { return vectors_.select(0, keep_basis_ ? j : j % 3); }

  /// Makes w = A v_j orthogonal to v_0, ..., v_j; returns alpha and |w|.
  std::pair<double, double> orthogonalize(at::Tensor& w, int64_t j) {
    if (j > 0) w.sub_(vector(j - 1), result_.betas.back());
    double alpha = inner(w, vector(j));
    w.sub_(vector(j), alpha);
    double beta = norm(w);
    if (!keep_basis_) return {alpha, beta};

    // What is left along the basis is rounding: one pass removes it, unless w itself is little
    // more.
    const at::Tensor basis = vectors_.narrow(0, 0, j + 1);
    for (int pass = 0; pass < 2; ++pass) {
      const at::Tensor components = inner_products(basis.t(), w.unsqueeze(1)).squeeze(1);
      w.addmv_(basis.t(), components.to(w.options()), 1, -1);
      result_.basis_passes += 2;
      alpha += components[j].item<double>();  // in float32, most of the dot product's own error
      const double before = std::exchange(beta, norm(w));
      if (beta > before / 2) break;
    }
    return {alpha, beta};
  }

  at::Tensor vectors_;
  bool keep_basis_;
  double scale_ = 0;  ///< largest entry of T
  LanczosResult result_;
};

void check_arguments(const LinearOperator& a, const at::Tensor& starts,
                     const LanczosOptions& options) {
  const OperatorSpec& spec = a.spec();
  CURVATURE_CHECK(a.is_symmetric(), NotSupportedError,
                  "lanczos: expected a symmetric operator, got {}", a.describe());
  CURVATURE_CHECK(spec.dtype == at::kDouble || spec.dtype == at::kFloat, NotSupportedError,
                  "lanczos: expected an operator in float32 or float64, got {} in {}", a.describe(),
                  c10::toString(spec.dtype));
  CURVATURE_CHECK(options.num_steps > 0, OptionError, "lanczos: num_steps must be positive; got {}",
                  options.num_steps);
  CURVATURE_CHECK(starts.dim() == 2 && starts.size(0) == a.rows(), ShapeError,
                  "lanczos: expected start vectors [{}, K], got {}", a.rows(),
                  to_string(starts.sizes()));
  CURVATURE_CHECK(
      starts.scalar_type() == spec.dtype && starts.device() == spec.device, DtypeDeviceError,
      "lanczos: expected start vectors of {} on {}, got {} on {}; convert them with .to()",
      c10::toString(spec.dtype), spec.device.str(), c10::toString(starts.scalar_type()),
      starts.device().str());
}

}  // namespace

std::vector<LanczosResult> lockstep_lanczos(const LinearOperator& a, const at::Tensor& starts,
                                            const LanczosOptions& options,
                                            const KeepGoing& keep_going) {
  check_arguments(a, starts, options);
  const at::NoGradGuard no_grad;
  const int64_t num_steps = std::min(options.num_steps, a.rows());
  std::vector<Run> runs;
  std::vector<size_t> active;
  for (int64_t i = 0; i < starts.size(1); ++i) {
    runs.emplace_back(starts.select(1, i), num_steps, options.reorthogonalize);
    active.push_back(static_cast<size_t>(i));
  }
  int64_t products = 0;
  for (int64_t step = 0; step < num_steps && !active.empty(); ++step) {
    std::vector<at::Tensor> vectors;
    for (const size_t i : active) vectors.push_back(runs[i].current());
    const at::Tensor product =
        a.apply(vectors.size() == 1 ? vectors.front().unsqueeze(1) : at::stack(vectors, 1));
    for (size_t k = 0; k < active.size(); ++k) {
      runs[active[k]].step(product.select(1, static_cast<int64_t>(k)), a);
      if (options.observer) {
        options.observer({"Lanczos steps", ++products, starts.size(1) * num_steps});
      }
    }
    std::erase_if(active, [&](size_t i) {
      const LanczosResult& run = runs[i].result();
      return run.breakdown || (keep_going && !keep_going(static_cast<int64_t>(i), run));
    });
  }
  std::vector<LanczosResult> results;
  for (Run& run : runs) results.push_back(run.finish());
  return results;
}

}  // namespace curvature::detail
