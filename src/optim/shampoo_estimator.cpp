#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/operators/algebra.hpp>
#include <curvature/operators/kronecker.hpp>
#include <curvature/optim/shampoo_estimator.hpp>

#include "core/check.hpp"
#include "layerwise/gram.hpp"
#include "optim/axis_order.hpp"
#include "optim/coupled_root.hpp"
#include "optim/mode_algebra.hpp"
#include "optim/mode_operator.hpp"
#include "optim/symmetric_eigen.hpp"

namespace curvature::optim {
namespace {

class ShampooEstimator : public CovarianceEstimator {
 public:
  ShampooEstimator(const ParameterView& view, const ShampooEstimatorOptions& options)
      : view_(view), options_(options), solve_(view) {
    for (const ModeKind kind : view.modes) modes_.push_back({.kind = kind});
  }

  at::Tensor step(const at::Tensor& gradient, Momentum& momentum) override {
    t_ += 1;
    update_factors(gradient);
    if (refresh_is_due(options_.refresh, t_, view_.index)) renew_roots();
    const ScaledTensor& filtered = momentum(gradient);
    at::Tensor direction = filtered.tensor * (filtered.factor * trace_scale_);
    for (size_t i = 0; i < modes_.size(); ++i) {
      const Mode& mode = modes_[i];
      if (!mode.root.defined()) continue;
      if (mode.kind == ModeKind::kDense) {
        direction = mode_product(direction, mode.root, i);
      } else {
        scale_mode(direction, mode.root, i);
      }
    }
    return direction;
  }

  /// The operator whose power -1/2 is the product of the roots: (X_1 (x) ... (x) X_k)^-2 / c^2.
  OperatorPtr snapshot() const override {
    std::vector<at::Tensor> roots;
    for (size_t i = 0; i < modes_.size(); ++i) {
      const Mode& mode = modes_[i];
      const bool diagonal = mode.kind != ModeKind::kDense;
      const at::Tensor root = mode.root.defined() && diagonal ? mode.root.diag() : mode.root;
      roots.push_back(
          at_least_single(root.defined() ? root : at::eye(view_.shape[i], view_.options)));
    }
    const OperatorPtr product =
        kronecker(in_parameter_order(view_, roots), Symmetry::kPositiveSemidefinite);
    return scaled(pow(product, -2), 1 / (trace_scale_ * trace_scale_));
  }

  void visit(StateVisitor& visitor) override {
    for (size_t i = 0; i < modes_.size(); ++i) {
      visitor.tensor(fmt::format("factor.{}", i), modes_[i].factor);
      visitor.tensor(fmt::format("root.{}", i), modes_[i].root);
    }
    visitor.number("trace_scale", trace_scale_);
    visitor.count("steps", t_);
    solve_.visit(visitor);
  }

  int64_t state_bytes() const override {
    int64_t numbers = 0;
    for (size_t i = 0; i < modes_.size(); ++i) {
      const int64_t d = view_.shape[i];
      if (modes_[i].kind == ModeKind::kDense) numbers += 2 * d * d;
      if (modes_[i].kind == ModeKind::kDiagonal) numbers += 2 * d;
    }
    return numbers * static_cast<int64_t>(view_.options.dtype().itemsize());
  }

 private:
  struct Mode {
    ModeKind kind = ModeKind::kDense;
    at::Tensor factor = {};  ///< S: lower triangle, or a vector
    at::Tensor root = {};    ///< (S + epsilon)^-p; undefined until the first refresh
  };

  void update_factors(const at::Tensor& gradient) {
    const bool sums = options_.accumulate_sum;
    const at::Tensor rows = sums ? gradient : gradient * std::sqrt(1 - options_.beta2);
    for (size_t i = 0; i < modes_.size(); ++i) {
      Mode& mode = modes_[i];
      const int64_t d = view_.shape[i];
      if (mode.kind == ModeKind::kIdentity) continue;
      const bool dense = mode.kind == ModeKind::kDense;
      if (!mode.factor.defined()) {
        mode.factor = dense ? at::zeros({d, d}, view_.options) : at::zeros({d}, view_.options);
      }
      const double decay = sums ? 1 : options_.beta2;
      if (dense) {
        add_mode_gram(mode.factor, rows, i, decay);
      } else {
        mode.factor.mul_(decay).add_(sum_other_modes(rows * rows, i));
      }
    }
  }

  double weight() const {
    const bool corrects = options_.bias_correction && !options_.accumulate_sum;
    return corrects ? 1 - std::pow(options_.beta2, static_cast<double>(t_)) : 1;
  }

  void renew_roots() {
    const auto k = static_cast<double>(modes_.size());
    const double exponent = options_.exponent.value_or(1 / (2 * k));
    double trace = 0;
    for (size_t i = 0; i < modes_.size(); ++i) {
      Mode& mode = modes_[i];
      if (mode.kind == ModeKind::kIdentity) continue;
      if (mode.kind == ModeKind::kDiagonal) {
        trace = mode.factor.sum(at::kDouble).item<double>();
        mode.root = powers(mode.factor / weight(), -exponent);
        continue;
      }
      trace = mode.factor.diagonal().sum(at::kDouble).item<double>();
      curvature::detail::mirror_lower(mode.factor);
      const at::Tensor factor = mode.factor / weight();
      if (const auto root =
              root_by_products(factor, options_.root, exponent, options_.factor_epsilon)) {
        mode.root = *root;
      } else if (const auto eigen = solve_(factor, i)) {
        // Q f(l) Q^T by half of its operations: it is the Gram matrix of f(l)^(1/2) Q^T.
        const at::Tensor rows =
            eigen->vectors.t() * powers(eigen->values, -exponent / 2).unsqueeze(1);
        mode.root = at::zeros_like(factor);
        curvature::detail::add_gram(mode.root, rows);
        curvature::detail::mirror_lower(mode.root);
      }
    }
    if (options_.trace_scaling) trace_scale_ = std::pow(trace / weight(), (k - 1) / 2);
  }

  /// (eigenvalues + epsilon)^power; of those that count as 0, 0.
  at::Tensor powers(const at::Tensor& eigenvalues, double power) const {
    const double floor = eigenvalues.scalar_type() == at::kDouble ? 1e-18 : 1e-7;
    const double mean = eigenvalues.mean(at::kDouble).item<double>();
    const at::Tensor shifted =
        (eigenvalues + options_.factor_epsilon)
            .clamp_min(std::max(floor * mean, std::numeric_limits<double>::min()));
    const at::Tensor result = at::pow(shifted, power);
    if (options_.rank_tolerance == 0) return result;
    const double smallest = options_.rank_tolerance * eigenvalues.max().item<double>();
    return at::where(eigenvalues > smallest, result, at::zeros({}, result.options()));
  }

  ParameterView view_;
  ShampooEstimatorOptions options_;
  EigenSolver solve_;
  std::vector<Mode> modes_;
  double trace_scale_ = 1;
  int64_t t_ = 0;
};

}  // namespace

EstimatorFactory shampoo_estimator(const ShampooEstimatorOptions& options) {
  CURVATURE_CHECK(options.beta2 >= 0 && options.beta2 < 1, OptionError,
                  "shampoo_estimator: expected beta2 in [0, 1), got {}", options.beta2);
  CURVATURE_CHECK(options.factor_epsilon >= 0 && options.rank_tolerance >= 0 &&
                      options.exponent.value_or(0) >= 0,
                  OptionError,
                  "shampoo_estimator: factor_epsilon, rank_tolerance and exponent must not be "
                  "negative");
  CURVATURE_CHECK(options.root == RootMethod::kEigh ||
                      (options.rank_tolerance == 0 && is_whole_root(options.exponent.value_or(1))),
                  OptionError,
                  "shampoo_estimator: roots by products need rank_tolerance 0 and a whole 1 / "
                  "exponent, got {} and {}",
                  options.rank_tolerance, options.exponent.value_or(1));
  check_refresh(options.refresh);
  return with_long_axes_last([options](const ParameterView& view) {
    return std::make_unique<ShampooEstimator>(view, options);
  });
}

}  // namespace curvature::optim
