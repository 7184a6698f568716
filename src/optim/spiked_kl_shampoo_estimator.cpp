#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/pow.h>

#include <curvature/core/random.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/optim/spiked_kl_shampoo_estimator.hpp>

#include "core/check.hpp"
#include "optim/kl_averages.hpp"
#include "optim/mode_algebra.hpp"
#include "optim/mode_operator.hpp"

namespace curvature::optim {
namespace {

double sum(const at::Tensor& x) { return x.sum(at::kDouble).item<double>(); }

/// U diag(s - mu) U^T + mu I for a dense axis, diag(s) for a diagonal one, I for the others.
struct SpikedFactor {
  ModeKind kind = ModeKind::kDense;
  int64_t size = 0, rank = 0;
  at::Tensor basis = {};   ///< U `[d, r]`; dense axes only
  at::Tensor image = {};   ///< Y = S U for the S that is not kept
  at::Tensor spikes = {};  ///< s
  double rest = 0;         ///< mu; 0 if nothing is dropped

  int64_t num_dropped() const { return size - rank; }

  double mean() const {
    return (sum(spikes) + static_cast<double>(num_dropped()) * rest) / static_cast<double>(size);
  }

  void start(double scale, const ParameterView& view, const RandomSource& random) {
    spikes = at::full({rank}, kind == ModeKind::kIdentity ? 1.0 : scale, view.options);
    rest = num_dropped() > 0 ? scale : 0;
    if (kind != ModeKind::kDense) return;
    if (num_dropped() == 0) {
      basis = at::eye(size, view.options);
    } else {
      const at::Tensor drawn = random.normal(0, size * rank).view({size, rank});
      basis = std::get<0>(at::linalg_qr(drawn)).contiguous().to(view.options);
    }
    image = basis * scale;
  }

  /// Eigenvalues to a power, held away from 0; the last entry is that of the rest.
  struct Powers {
    at::Tensor spikes;
    double rest = 0;
  };
  Powers powers(double power, double floor) const {
    const double least = std::max(floor * mean(), std::numeric_limits<double>::min());
    return {at::pow(spikes.clamp_min(least), power),
            num_dropped() > 0 ? std::pow(std::max(rest, least), power) : 0};
  }
  double trace_of(const Powers& powers) const {
    return sum(powers.spikes) + static_cast<double>(num_dropped()) * powers.rest;
  }

  /// x with S^p on an axis; may be x itself.
  at::Tensor applied(const Powers& powers, const at::Tensor& x, size_t axis) const {
    if (kind == ModeKind::kIdentity) return x;
    if (kind == ModeKind::kDiagonal) {
      at::Tensor y = x.clone();
      scale_mode(y, powers.spikes, axis);
      return y;
    }
    at::Tensor coordinates = mode_product(x, basis.t(), axis);
    scale_mode(coordinates, powers.spikes - powers.rest, axis);
    at::Tensor y = mode_product(coordinates, basis, axis);
    return num_dropped() > 0 ? y.add_(x, powers.rest) : y;
  }

  at::Tensor dense() const {
    if (kind != ModeKind::kDense) return spikes;
    at::Tensor s = at::mm(basis * (spikes - rest), basis.t());
    s.diagonal().add_(rest);
    return s;
  }

  void scale(double factor) {
    if (kind == ModeKind::kIdentity) return;
    spikes = spikes * factor;
    rest *= factor;
    if (image.defined()) image = image * factor;
  }

  /// One orthogonal iteration; see the docstring of the estimator for Y.
  void turn() {
    // LibTorch has no QR below float32.
    const at::Tensor next =
        std::get<0>(at::linalg_qr(at_least_single(image))).contiguous().to(image.scalar_type());
    const at::Tensor turned = at::mm(basis.t(), next);
    at::Tensor moved = at::mm(image, turned);
    if (num_dropped() > 0) {
      const at::Tensor outside = image - at::mm(basis, at::mm(basis.t(), image));
      moved.add_(at::mm(basis, at::mm(outside.t(), next)));
      moved.add_(next - at::mm(basis, turned), rest);
    }
    basis = next;
    image = moved;
  }
};

/// X as a matrix `[d_mode, D / d_mode]`.
at::Tensor unfolding(const at::Tensor& x, size_t mode) {
  return around(x, mode).transpose(0, 1).reshape({x.size(static_cast<int64_t>(mode)), -1});
}

class SpikedKlShampooEstimator : public CovarianceEstimator {
 public:
  SpikedKlShampooEstimator(const ParameterView& view, const SpikedKlShampooOptions& options)
      : view_(view),
        options_(options),
        floor_(options.relative_floor.value_or(
            default_floor(c10::typeMetaToScalarType(view.options.dtype())))) {
    for (size_t i = 0; i < view.shape.size(); ++i) {
      const int64_t d = view.shape[i];
      const bool is_dense = view.modes[i] == ModeKind::kDense;
      factors_.push_back(
          {.kind = view.modes[i], .size = d, .rank = is_dense ? std::min(options.rank, d) : d});
    }
  }

  at::Tensor step(const at::Tensor& gradient, Momentum& momentum) override {
    const bool starts = t_ == 0;
    if (starts && !start(gradient)) return {};
    t_ += 1;
    const ScaledTensor& filtered = momentum(gradient);
    at::Tensor u = multiplied(filtered.tensor, -options_.exponent) * filtered.factor;
    if (starts) return u;
    fit(gradient);
    if (refresh_is_due(options_.refresh, t_, view_.index)) {
      for (SpikedFactor& factor : factors_) {
        if (factor.kind == ModeKind::kDense) factor.turn();
      }
    }
    return u;
  }

  OperatorPtr snapshot() const override {
    CURVATURE_CHECK(t_ > 0, NotSupportedError, "snapshot: '{}' has seen no gradient yet",
                    view_.name);
    constexpr int64_t kShort = 1024;
    const int64_t longest = *std::max_element(view_.shape.begin(), view_.shape.end());
    if (longest <= kShort) {
      std::vector<at::Tensor> matrices;
      for (const SpikedFactor& factor : factors_) matrices.push_back(factor.dense());
      return mode_operator(matrices);
    }
    Shape shape = view_.shape;
    shape.push_back(-1);
    std::vector<SpikedFactor> single = factors_;
    for (SpikedFactor& factor : single) {
      factor.spikes = at_least_single(factor.spikes);
      if (factor.basis.defined()) factor.basis = at_least_single(factor.basis);
    }
    const auto apply = [factors = single, shape](const at::Tensor& x) {
      at::Tensor y = x.reshape(shape);
      for (size_t i = 0; i < factors.size(); ++i) {
        y = factors[i].applied(factors[i].powers(1, 0), y, i);
      }
      return y.reshape(x.sizes());
    };
    return function_operator({.domain = Space::flat(view_.size()),
                              .range = Space::flat(view_.size()),
                              .dtype = single.front().spikes.scalar_type(),
                              .device = view_.options.device(),
                              .symmetry = Symmetry::kPositiveSemidefinite},
                             MatrixMap(apply));
  }

  void visit(StateVisitor& visitor) override {
    for (size_t i = 0; i < factors_.size(); ++i) {
      const auto name = [&](const char* field) { return fmt::format("{}.{}", field, i); };
      visitor.tensor(name("basis"), factors_[i].basis);
      visitor.tensor(name("image"), factors_[i].image);
      visitor.tensor(name("eigenvalues"), factors_[i].spikes);
      visitor.number(name("rest"), factors_[i].rest);
    }
    visitor.count("steps", t_);
  }

  int64_t state_bytes() const override {
    int64_t numbers = 0;
    for (const SpikedFactor& factor : factors_) {
      numbers += factor.rank;
      if (factor.kind == ModeKind::kDense) numbers += 2 * factor.rank * factor.size;
    }
    return numbers * static_cast<int64_t>(view_.options.dtype().itemsize());
  }

 private:
  bool start(const at::Tensor& gradient) {
    const double scale = gradient.square().mean(at::kDouble).item<double>();
    if (scale < smallest_mean_square(gradient.scalar_type())) return false;
    const RandomSource random =
        RandomSource(options_.seed).derive(static_cast<uint64_t>(view_.index));
    for (size_t i = 0; i < factors_.size(); ++i) {
      factors_[i].start(std::pow(scale, 1 / static_cast<double>(factors_.size())), view_,
                        random.derive(i));
    }
    return true;
  }

  /// X with S_i^p on all axes, which may be X itself.
  at::Tensor multiplied(const at::Tensor& x, double power) const {
    at::Tensor y = x;
    for (size_t i = 0; i < factors_.size(); ++i) {
      y = factors_[i].applied(factors_[i].powers(power, floor_), y, i);
    }
    return y;
  }

  /// All factors see the old ones: N = G whitened along every axis, so that W = N x_i S_i^1/2.
  void fit(const at::Tensor& gradient) {
    const double b = decay_at(options_.beta2, options_.debias, t_);
    const at::Tensor whitened = multiplied(gradient, -0.5);
    double all_traces = 1;
    std::vector<double> traces;  // of S_j^-1
    for (const SpikedFactor& factor : factors_) {
      traces.push_back(factor.trace_of(factor.powers(-1, floor_)));
      all_traces *= traces.back();
    }
    for (size_t i = 0; i < factors_.size(); ++i) {
      const auto others = static_cast<double>(view_.size() / view_.shape[i]);
      average(i, whitened, b, others, options_.damping * all_traces / traces[i] / others);
    }
    if (options_.balance) balance();
  }

  /// The averages of one axis; `others` is D_i, `shift` is what damping adds to eigenvalues.
  void average(size_t i, const at::Tensor& whitened, double b, double others, double shift) {
    SpikedFactor& factor = factors_[i];
    if (factor.kind == ModeKind::kIdentity) return;
    const auto [spikes, rest] = factor.powers(1, floor_);
    if (factor.kind == ModeKind::kDiagonal) {
      const at::Tensor sample = sum_other_modes(whitened * whitened, i) * spikes / others + shift;
      factor.spikes = factor.spikes * b + sample * (1 - b);
      return;
    }
    const at::Tensor rows = unfolding(whitened, i);                 // N
    const at::Tensor coordinates = at::mm(factor.basis.t(), rows);  // U^T N
    const at::Tensor squares = coordinates.square().sum(1);
    const at::Tensor sample = squares * spikes / others;
    if (factor.num_dropped() > 0) {
      const double outside = std::max(sum(rows * rows) - sum(squares), 0.0);
      const double mean_outside =
          rest * outside / others / static_cast<double>(factor.num_dropped()) + shift;
      factor.rest = b * factor.rest + (1 - b) * mean_outside;
    }
    factor.spikes = factor.spikes * b + (sample + shift) * (1 - b);
    // A U = S^1/2 N (U^T N)^T s^1/2 / D
    const at::Tensor half = at::mm(rows, coordinates.t()) * spikes.sqrt();
    at::Tensor inside = at::mm(factor.basis.t(), half);
    at::Tensor image =
        at::mm(factor.basis, inside * (spikes.sqrt() - std::sqrt(rest)).unsqueeze(1));
    image.add_(half, std::sqrt(rest)).div_(others).add_(factor.basis, shift);
    factor.image = factor.image * b + image * (1 - b);
  }

  void balance() {
    double log_means = 0, num_free = 0;
    for (const SpikedFactor& factor : factors_) {
      if (factor.kind == ModeKind::kIdentity) continue;
      log_means += std::log(factor.mean());
      num_free += 1;
    }
    for (SpikedFactor& factor : factors_) {
      if (factor.kind == ModeKind::kIdentity) continue;
      factor.scale(std::exp(log_means / num_free) / factor.mean());
    }
  }

  ParameterView view_;
  SpikedKlShampooOptions options_;
  double floor_;
  std::vector<SpikedFactor> factors_;
  int64_t t_ = 0;
};

}  // namespace

EstimatorFactory spiked_kl_shampoo_estimator(const SpikedKlShampooOptions& options) {
  CURVATURE_CHECK(options.rank >= 1, OptionError,
                  "spiked_kl_shampoo_estimator: expected rank >= 1, got {}", options.rank);
  CURVATURE_CHECK(options.beta2 >= 0 && options.beta2 < 1, OptionError,
                  "spiked_kl_shampoo_estimator: expected beta2 in [0, 1), got {}", options.beta2);
  CURVATURE_CHECK(
      options.damping >= 0 && options.exponent >= 0 && options.relative_floor.value_or(0) >= 0,
      OptionError,
      "spiked_kl_shampoo_estimator: damping, exponent and relative_floor must not be "
      "negative");
  check_refresh(options.refresh);
  return [options](const ParameterView& view) {
    return std::make_unique<SpikedKlShampooEstimator>(view, options);
  };
}

}  // namespace curvature::optim
