#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/mv.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include <curvature/operators/decorators.hpp>
#include <curvature/spectral/matrix_function.hpp>

#include "core/check.hpp"
#include "spectral/checked_function.hpp"
#include "spectral/lockstep_lanczos.hpp"
#include "spectral/sampling.hpp"

namespace curvature {
namespace {

using detail::CheckedFunction;

void check(const LinearOperator& a, const LanczosFunctionOptions& options) {
  CURVATURE_CHECK(a.is_symmetric(), NotSupportedError,
                  "matrix function: expected a symmetric operator, got {}", a.describe());
  CURVATURE_CHECK(options.num_steps > 0 && options.columns_at_once > 0, OptionError,
                  "matrix function: num_steps and columns_at_once must be positive; got {} and {}",
                  options.num_steps, options.columns_at_once);
  CURVATURE_CHECK(!options.tolerance || *options.tolerance > 0, OptionError,
                  "matrix function: tolerance must be positive; got {}", *options.tolerance);
}

/// f(T) e_1 of a run, float64 on the CPU.
at::Tensor first_column(const CheckedFunction& f, const LanczosResult& run,
                        const LinearOperator& a) {
  const RitzPairs ritz = ritz_pairs(run);
  const at::Tensor values = at::tensor(f(ritz.values, a), at::kDouble);
  return ritz.coefficients.matmul(values * ritz.coefficients[0]);
}

/// Watches how f(A) x / |x|, in the coordinates of the basis, changes as its run goes on.
class Convergence {
 public:
  explicit Convergence(double tolerance) : tolerance_(tolerance) {}

  /// Judges after two steps, then after ever more: eigenvalues of T cost O(m^3).
  bool is_due(int64_t step) const { return step >= next_; }

  void judge(const at::Tensor& coordinates) {
    const int64_t step = coordinates.size(0);
    at::Tensor change = coordinates.clone();
    if (coordinates_.defined()) change.narrow(0, 0, coordinates_.size(0)).sub_(coordinates_);
    const double size = coordinates.norm().item<double>();
    update_ = size > 0 ? change.norm().item<double>() / size : 0;
    coordinates_ = coordinates;
    next_ = step + std::max<int64_t>(2, step / 8);
  }

  bool met() const { return update_ <= tolerance_; }
  double update() const { return update_; }
  const at::Tensor& coordinates() const { return coordinates_; }

 private:
  double tolerance_;
  int64_t next_ = 2;
  double update_ = 1;
  at::Tensor coordinates_;
};

/// Columns of X, scaled to a largest entry of 1, and the scales: norms neither over- nor underflow.
struct ScaledColumns {
  at::Tensor columns;
  std::vector<double> scales;
};

ScaledColumns scale_columns(const at::Tensor& x) {
  if (x.size(1) == 0) return {x, {}};
  const at::Tensor scales = x.abs().amax(0);
  return {x / scales, detail::to_host_vector(scales)};
}

/// f(A) X for columns that are not zero.
void apply_to_chunk(const LinearOperator& a, const CheckedFunction& f, const ScaledColumns& x,
                    const std::vector<int64_t>& columns, const LanczosFunctionOptions& options,
                    FunctionProduct& result) {
  const double tolerance = options.tolerance.value_or(a.spec().dtype == at::kDouble ? 1e-10 : 1e-5);
  std::vector<Convergence> convergence(columns.size(), Convergence(tolerance));
  const std::vector<LanczosResult> runs = detail::lockstep_lanczos(
      a, x.columns.index_select(1, at::tensor(columns, at::kLong).to(x.columns.device())),
      {.num_steps = options.num_steps, .observer = options.observer},
      [&](int64_t i, const LanczosResult& run) {
        Convergence& column = convergence[static_cast<size_t>(i)];
        if (!column.is_due(run.num_steps())) return true;
        column.judge(first_column(f, run, a));
        return !column.met();
      });
  for (size_t i = 0; i < runs.size(); ++i) {
    const LanczosResult& run = runs[i];
    Convergence& column = convergence[i];
    const bool judged =
        column.coordinates().defined() && column.coordinates().size(0) == run.num_steps();
    if (!judged) column.judge(first_column(f, run, a));
    const auto k = static_cast<size_t>(columns[i]);
    result.steps[k] = run.num_steps();
    result.updates[k] = run.breakdown ? 0 : column.update();
    result.products += run.num_steps();
    if (!run.breakdown && !column.met()) result.termination = Termination::kMaxIterations;
    const at::Tensor coordinates = (run.start_norm * column.coordinates()).to(run.basis.options());
    result.values.select(1, columns[i]).copy_(at::mv(run.basis.t(), coordinates)).mul_(x.scales[k]);
  }
}

FunctionProduct apply_checked(const LinearOperator& a, const CheckedFunction& f,
                              const at::Tensor& x, const LanczosFunctionOptions& options) {
  check(a, options);
  CURVATURE_CHECK((x.dim() == 1 || x.dim() == 2) && x.size(0) == a.cols(), ShapeError,
                  "matrix function: expected [{}] or [{}, K], got {}", a.cols(), a.cols(),
                  detail::to_string(x.sizes()));
  CURVATURE_CHECK(x.scalar_type() == a.spec().dtype && x.device() == a.spec().device,
                  DtypeDeviceError,
                  "matrix function: expected {} on {}, got {} on {}; convert it with .to()",
                  c10::toString(a.spec().dtype), a.spec().device.str(),
                  c10::toString(x.scalar_type()), x.device().str());
  const at::NoGradGuard no_grad;
  const at::Tensor columns = x.dim() == 1 ? x.unsqueeze(1) : x;
  const auto count = static_cast<size_t>(columns.size(1));
  FunctionProduct result{.values = at::zeros(columns.sizes(), columns.options()),
                         .steps = std::vector<int64_t>(count),
                         .updates = std::vector<double>(count)};
  std::vector<int64_t> nonzero;  // f(A) 0 = 0 costs nothing
  const ScaledColumns scaled = scale_columns(columns);
  for (size_t i = 0; i < count; ++i) {
    if (scaled.scales[i] != 0) nonzero.push_back(static_cast<int64_t>(i));
  }
  for (auto first = nonzero.begin(); first != nonzero.end();) {
    const auto last = first + std::min(options.columns_at_once, nonzero.end() - first);
    apply_to_chunk(a, f, scaled, {first, last}, options, result);
    first = last;
  }
  if (x.dim() == 1) result.values = result.values.squeeze(1);
  return result;
}

class LanczosFunction final : public FlatOperator {
 public:
  LanczosFunction(OperatorPtr a, CheckedFunction f, const LanczosFunctionOptions& options,
                  OperatorSpec spec)
      : FlatOperator(std::move(spec)), a_(std::move(a)), f_(std::move(f)), options_(options) {}

  std::string describe() const override { return fmt::format("{}({})", f_.name(), a_->describe()); }

 private:
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    const FunctionProduct product = apply_checked(*a_, f_, x, options_);
    CURVATURE_CHECK(!options_.require_convergence || product.termination == Termination::kConverged,
                    NumericalError,
                    "{}: a product did not converge in {} steps; the last ones changed it by "
                    "{:.1e}; allow more num_steps",
                    describe(), options_.num_steps,
                    *std::max_element(product.updates.begin(), product.updates.end()));
    return product.values;
  }

  OperatorPtr a_;
  CheckedFunction f_;
  LanczosFunctionOptions options_;
};

OperatorPtr make_function(OperatorPtr a, CheckedFunction f, const LanczosFunctionOptions& options,
                          Symmetry symmetry) {
  CURVATURE_CHECK(a != nullptr, OptionError, "{}: the operator is null", f.name());
  check(*a, options);
  OperatorSpec spec = a->spec();
  spec.symmetry = symmetry;
  return std::make_shared<LanczosFunction>(std::move(a), std::move(f), options, std::move(spec));
}

OperatorPtr closed_or_lanczos(const OperatorPtr& a, CheckedFunction f,
                              const LanczosFunctionOptions& options, Symmetry symmetry) {
  CURVATURE_CHECK(a != nullptr, OptionError, "{}: the operator is null", f.name());
  check(*a, options);
  if (OperatorPtr closed = a->function(f.on_tensors(*a))) {
    const bool weaker = closed->spec().symmetry < symmetry;
    return weaker ? declare_symmetry(std::move(closed), symmetry) : closed;
  }
  return make_function(a, std::move(f), options, symmetry);
}

at::Tensor draw(const OperatorPtr& root, const RandomSource& random, int64_t count, int64_t first) {
  return root->apply(
      draw_probes(random, Probe::kGaussian, root->cols(), first, count, detail::options_of(*root)));
}

}  // namespace

FunctionProduct apply_function(OperatorRef a, const ScalarFunction& f, const at::Tensor& x,
                               const LanczosFunctionOptions& options) {
  return apply_checked(*a, {"apply_function", f}, x, options);
}

OperatorPtr lanczos_function(OperatorPtr a, ScalarFunction f,
                             const LanczosFunctionOptions& options) {
  return make_function(std::move(a), {"function", std::move(f)}, options, Symmetry::kSymmetric);
}

OperatorPtr square_root(const OperatorPtr& a, const LanczosFunctionOptions& options) {
  return closed_or_lanczos(a, detail::square_root_function(), options,
                           Symmetry::kPositiveSemidefinite);
}

OperatorPtr inverse_square_root(const OperatorPtr& a, const LanczosFunctionOptions& options) {
  return closed_or_lanczos(a, detail::inverse_square_root_function(), options,
                           Symmetry::kPositiveDefinite);
}

OperatorPtr exponential(const OperatorPtr& a, const LanczosFunctionOptions& options) {
  return closed_or_lanczos(a, detail::exp_function(), options, Symmetry::kPositiveDefinite);
}

OperatorPtr logarithm(const OperatorPtr& a, const LanczosFunctionOptions& options) {
  return closed_or_lanczos(a, detail::log_function(), options, Symmetry::kSymmetric);
}

at::Tensor sample_by_lanczos(const OperatorPtr& a, const RandomSource& random, int64_t count,
                             int64_t first, const LanczosFunctionOptions& options) {
  return draw(square_root(a, options), random, count, first);
}

at::Tensor sample_inverse_by_lanczos(const OperatorPtr& a, const RandomSource& random,
                                     int64_t count, int64_t first,
                                     const LanczosFunctionOptions& options) {
  return draw(inverse_square_root(a, options), random, count, first);
}

}  // namespace curvature
