#include <algorithm>
#include <cmath>
#include <functional>
#include <string_view>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>

#include <curvature/spectral/xtrace.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "spectral/by_columns.hpp"
#include "spectral/leave_one_out.hpp"
#include "spectral/sampling.hpp"

namespace curvature {
namespace {

using detail::LeaveOneOut;
using detail::RangeSketch;
using detail::SampleMean;

using Multiply = std::function<at::Tensor(const at::Tensor&)>;

void check(const LinearOperator& a, const EstimateOptions& options, std::string_view who) {
  detail::check_square(a, who);
  detail::check_options(options, who);
  CURVATURE_CHECK(options.samples >= 2 || a.rows() == 1, OptionError,
                  "{}: expected samples of at least 2 (a vector costs two products), got {}", who,
                  options.samples);
}

/// A sketch, and its basis multiplied by A or A^T.
struct Measured {
  RangeSketch sketch;
  at::Tensor image;
};

/// Grows sketch and image until `accurate` (if an error is requested) or the budget is spent.
Termination grow(const LinearOperator& a, const EstimateOptions& options, std::string_view task,
                 const Multiply& multiply_basis, Measured& measured,
                 const std::function<bool()>& accurate) {
  const int64_t most = options.samples / 2;
  const bool requested = detail::has_request(options);
  int64_t products = 0;
  const Multiply multiply = [&](const at::Tensor& x) { return a.apply(x); };
  const auto in_chunks = [&](const at::Tensor& x, const Multiply& product) {
    const at::Tensor y =
        detail::multiply_in_chunks(x, options.columns_at_once, product, [&](int64_t done) {
          if (options.observer) options.observer({task, products + done, 2 * most});
        });
    products += x.size(1);
    CURVATURE_CHECK(detail::is_finite(y), NumericalError, "{}: a product is not finite",
                    a.describe());
    return y;
  };
  int64_t size = 0;
  while (size < most) {
    const int64_t target =
        requested ? std::min(most, std::max(options.check_every, 2 * size)) : most;
    const at::Tensor omega = draw_probes(options.random, options.probe, a.cols(), size,
                                         target - size, detail::options_of(a));
    measured.sketch.append(omega, in_chunks(omega, multiply));
    const at::Tensor image =
        in_chunks(measured.sketch.basis().narrow(1, size, target - size), multiply_basis);
    measured.image = size == 0 ? image : at::cat({measured.image, image}, 1);
    size = target;
    if (requested && size >= options.check_every && accurate()) return Termination::kConverged;
  }
  return requested ? Termination::kMaxIterations : Termination::kConverged;
}

LeaveOneOut leave_one_out(const LinearOperator& a, const RangeSketch& sketch) {
  return detail::leave_one_out(sketch.factor(), a.spec().dtype == at::kDouble ? 1e-14 : 1e-5);
}

/// Whether the rank of Y is, (nearly) certainly, that of A. A sign vector lies in a given proper
/// subspace with a probability of up to 1/2, others never do.
bool found_range(const LeaveOneOut& left_out, int64_t size, Probe probe) {
  return left_out.redundant && size - left_out.rank >= (probe == Probe::kRademacher ? 20 : 1);
}

/// The number that each column contributes to the mean. `[k]`
at::Tensor trace_samples(const Measured& measured, const LeaveOneOut& left_out, Probe probe) {
  const RangeSketch& sketch = measured.sketch;
  const auto to_operator = [&](const at::Tensor& x) { return x.to(sketch.basis().options()); };
  const auto to_host = [](const at::Tensor& x) { return x.to(at::kCPU, at::kDouble); };
  const at::Tensor h = to_host(sketch.basis().t().matmul(measured.image));
  const at::Tensor overlaps = to_host(sketch.basis().t().matmul(sketch.omega()));
  const at::Tensor& p = left_out.projector;
  const at::Tensor& s = left_out.directions;
  const at::Tensor inside = h.mul(p).sum() - (s * h.matmul(s)).sum(0);

  // w_i = omega_i without its part in the range of the others, and its product, at no cost.
  const at::Tensor removed = to_operator(p.matmul(overlaps) - s * (s * overlaps).sum(0));
  const at::Tensor w = sketch.omega() - sketch.basis().matmul(removed);
  const at::Tensor aw = sketch.products() - measured.image.matmul(removed);
  const at::Tensor outside = to_host(detail::column_dots(w, aw));
  if (probe == Probe::kRademacher) return inside + outside;
  // The direction of w_i is uniform in the complement; its length adds noise only.
  const at::Tensor dimension = static_cast<double>(w.size(0) - left_out.rank) + s.square().sum(0);
  return inside + outside * dimension / to_host(detail::column_dots(w, w));
}

/// d_i as columns `[n, k]`, float64, whose mean is the diagonal.
at::Tensor diagonal_samples(const Measured& measured, const LeaveOneOut& left_out) {
  const RangeSketch& sketch = measured.sketch;
  const auto to_operator = [&](const at::Tensor& x) { return x.to(sketch.basis().options()); };
  const at::Tensor& s = left_out.directions;
  const at::Tensor inside =
      (sketch.basis().matmul(to_operator(left_out.projector)) * measured.image)
          .sum({1}, /*keepdim=*/true, at::kDouble);
  const at::Tensor qs = sketch.basis().matmul(to_operator(s));
  const at::Tensor zs = measured.image.matmul(to_operator(s));
  const at::Tensor lengths = to_operator((s * sketch.factor()).sum(0));
  return inside + (qs * (sketch.omega() * lengths - zs)).to(at::kDouble);
}

}  // namespace

Estimate xtrace(OperatorRef a, const EstimateOptions& options) {
  check(*a, options, "xtrace");
  if (options.samples >= a->rows()) {
    return detail::trace_by_columns(*a, options.columns_at_once, options.observer);
  }
  const at::NoGradGuard no_grad;
  Measured measured;
  const auto estimate_now = [&] {
    const LeaveOneOut left_out = leave_one_out(*a, measured.sketch);
    SampleMean samples;
    samples.add(trace_samples(measured, left_out, options.probe), *a);
    Estimate estimate = detail::to_estimate(samples);
    estimate.products = 2 * samples.count();
    estimate.exact = found_range(left_out, samples.count(), options.probe);
    if (left_out.redundant) estimate.standard_error = std::nullopt;
    return estimate;
  };
  const Termination termination = grow(
      *a, options, "XTrace", [&](const at::Tensor& x) { return a->apply(x); }, measured,
      [&] { return detail::is_accurate(options, estimate_now()); });
  Estimate estimate = estimate_now();
  estimate.termination = termination;
  return estimate;
}

DiagonalEstimate xdiag(OperatorRef a, const EstimateOptions& options) {
  check(*a, options, "xdiag");
  CURVATURE_CHECK(options.probe == Probe::kRademacher, OptionError,
                  "xdiag: expected signs (Probe::kRademacher) as probes");
  CURVATURE_CHECK(detail::has_adjoint(*a), NotSupportedError,
                  "xdiag: {} has no adjoint; use hutchinson_diagonal", a->describe());
  if (options.samples >= a->rows()) {
    return detail::diagonal_by_columns(*a, options.columns_at_once, options.observer);
  }
  const at::NoGradGuard no_grad;
  Measured measured;
  const auto estimate_now = [&] {
    const LeaveOneOut left_out = leave_one_out(*a, measured.sketch);
    const at::Tensor samples = diagonal_samples(measured, left_out);
    const int64_t size = samples.size(1);
    DiagonalEstimate estimate{.values = samples.mean(1).to(a->spec().dtype),
                              .samples = size,
                              .products = 2 * size,
                              .exact = found_range(left_out, size, options.probe)};
    if (size > 1 && !left_out.redundant) {
      estimate.standard_errors =
          (samples.std(1) / std::sqrt(static_cast<double>(size))).to(a->spec().dtype);
    }
    return estimate;
  };
  const Termination termination = grow(
      *a, options, "XDiag",
      [&](const at::Tensor& x) { return a->is_symmetric() ? a->apply(x) : a->apply_adjoint(x); },
      measured, [&] { return detail::is_accurate(options, estimate_now()); });
  DiagonalEstimate estimate = estimate_now();
  estimate.termination = termination;
  return estimate;
}

}  // namespace curvature
