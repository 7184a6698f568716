#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <curvature/layerwise/shampoo.hpp>
#include <curvature/operators/block_diagonal.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/check.hpp"
#include "layerwise/gradient_moments.hpp"
#include "layerwise/kronecker_fit.hpp"

namespace curvature {
namespace {

using detail::KroneckerFit;
using detail::KroneckerMoments;
using detail::SecondMoment;
using detail::Side;

/// A block for each parameter, in the model's dtype.
OperatorPtr blocks_of(const EmpiricalRisk& risk, const std::vector<KroneckerMoments>& factors) {
  const at::ScalarType dtype = risk.parameters().front().scalar_type();
  std::vector<OperatorPtr> blocks;
  for (size_t i = 0; i < factors.size(); ++i) {
    const Space space = risk.space().subspace({i});
    blocks.push_back(kronecker({factors[i].rows.to(dtype), factors[i].columns.to(dtype)}, space,
                               space, Symmetry::kPositiveSemidefinite));
  }
  return block_diagonal(blocks, risk.space(), risk.space());
}

/// KL-Shampoo of all parameters, in step, so that they share passes over the examples.
class KlShampoo {
 public:
  KlShampoo(const EmpiricalRisk& risk, const KlShampooOptions& options)
      : risk_(risk), options_(options), scale_(detail::second_moment_scale(risk)) {
    const at::ScalarType dtype = risk.parameters().front().scalar_type();
    MemoryBudget budget(
        options.memory_budget.value_or(default_memory_budget(risk.parameters().front().device())));
    for (const KroneckerMoments& moments :
         detail::kronecker_moments(risk, "kl_shampoo", options.observer)) {
      KroneckerFit fit(moments, options.damping, dtype);
      SecondMoment moment(fit.rank(Side::kRows), fit.rank(Side::kColumns),
                          risk.num_local_examples(), moments.rows.options(), budget);
      parameters_.push_back({std::move(fit), std::move(moment)});
      parameters_.back().is_done = parameters_.back().fit.is_zero();
    }
  }

  std::vector<KroneckerMoments> run() {
    keep();
    for (int64_t i = 0; i < options_.max_iterations && num_done() < parameters_.size(); ++i) {
      update(Side::kRows);
      update(Side::kColumns);
      for (Parameter& parameter : parameters_) {
        parameter.is_done = parameter.is_done || parameter.fit.change() <= kTolerance;
      }
      if (options_.observer) {
        options_.observer({"Kronecker products", static_cast<int64_t>(num_done()),
                           static_cast<int64_t>(parameters_.size())});
      }
    }
    std::vector<KroneckerMoments> factors;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const KroneckerFit& fit = parameters_[i].fit;
      CURVATURE_CHECK(parameters_[i].is_done, NumericalError,
                      "kl_shampoo: the factors of '{}' still change by {:.1e} after {} iterations; "
                      "expected {:.0e}; {}",
                      name(i), fit.change(), options_.max_iterations, kTolerance, advice());
      factors.push_back(fit.factors());
    }
    return factors;
  }

 private:
  static constexpr double kTolerance = 1e-10;

  struct Parameter {
    KroneckerFit fit;
    SecondMoment moment;
    bool is_done = false;
  };

  /// Fills the second moments that fit into the budget.
  void keep() {
    const auto is_kept = [](const Parameter& p) { return p.moment.is_kept() && !p.is_done; };
    if (std::none_of(parameters_.begin(), parameters_.end(), is_kept)) return;
    detail::for_each_gradient_chunk(risk_, options_.observer, [&](const TensorList& gradients) {
      for (size_t i = 0; i < parameters_.size(); ++i) {
        if (!is_kept(parameters_[i])) continue;
        parameters_[i].moment.add(parameters_[i].fit.transform(gradients[i]));
      }
    });
    for (Parameter& parameter : parameters_) parameter.moment.finish();
  }

  void update(Side side) {
    const TensorList sums = sums_of(side);
    for (size_t i = 0; i < parameters_.size(); ++i) {
      if (parameters_[i].is_done) continue;
      CURVATURE_CHECK(parameters_[i].fit.update(side, sums[i] * scale_), NumericalError,
                      "kl_shampoo: no Kronecker product is nearest to the gradients of '{}'; {}",
                      name(i), advice());
    }
  }

  /// sum_n w_n G_n B^-1 G_n^T, or its counterpart, of each parameter; zeros for those that are
  /// done.
  TensorList sums_of(Side side) const {
    const Side other = side == Side::kRows ? Side::kColumns : Side::kRows;
    TensorList sums;
    bool all_kept = true;
    for (const Parameter& parameter : parameters_) {
      const KroneckerFit& fit = parameter.fit;
      const bool kept = parameter.moment.is_kept() && !parameter.is_done;
      all_kept = all_kept && (kept || parameter.is_done);
      sums.push_back(
          kept ? parameter.moment.sum(side, fit.inverse(other))
               : at::zeros({fit.rank(side), fit.rank(side)}, fit.inverse(other).options()));
    }
    if (!all_kept) add_passing(side, other, sums);
    risk_.reducer().sum(sums);
    return sums;
  }

  /// Those whose gradients are not kept.
  void add_passing(Side side, Side other, TensorList& sums) const {
    detail::for_each_gradient_chunk(risk_, options_.observer, [&](const TensorList& gradients) {
      for (size_t i = 0; i < parameters_.size(); ++i) {
        const auto& [fit, moment, is_done] = parameters_[i];
        if (is_done || moment.is_kept()) continue;
        const at::Tensor p = fit.transform(gradients[i]);
        sums[i].add_(
            detail::row_moment(side == Side::kRows ? p : p.transpose(1, 2), fit.inverse(other)));
      }
    });
  }

  size_t num_done() const {
    return static_cast<size_t>(std::count_if(parameters_.begin(), parameters_.end(),
                                             [](const Parameter& p) { return p.is_done; }));
  }
  std::string name(size_t parameter) const {
    const SpaceEntry& entry = risk_.space().entries()[parameter];
    return fmt::format("{} {}", entry.name, detail::to_string(entry.shape));
  }
  std::string advice() const {
    return fmt::format("{} examples may be too few; take more, damp the fit, or take shampoo",
                       risk_.num_examples());
  }

  const EmpiricalRisk& risk_;
  const KlShampooOptions& options_;
  double scale_;
  std::vector<Parameter> parameters_;
};

}  // namespace

OperatorPtr shampoo(const EmpiricalRisk& risk, const ShampooOptions& options) {
  const at::NoGradGuard no_grad;
  std::vector<KroneckerMoments> factors =
      detail::kronecker_moments(risk, "shampoo", options.observer);
  for (KroneckerMoments& moments : factors) {
    const double trace = moments.rows.trace().item<double>();
    if (trace == 0) continue;
    moments.rows /= std::sqrt(trace);
    moments.columns /= std::sqrt(trace);
  }
  return blocks_of(risk, factors);
}

OperatorPtr kl_shampoo(const EmpiricalRisk& risk, const KlShampooOptions& options) {
  CURVATURE_CHECK(options.damping >= 0 && std::isfinite(options.damping), OptionError,
                  "KlShampooOptions: damping must be a number >= 0; got {}", options.damping);
  CURVATURE_CHECK(options.max_iterations > 0, OptionError,
                  "KlShampooOptions: max_iterations must be positive; got {}",
                  options.max_iterations);
  const at::NoGradGuard no_grad;
  return blocks_of(risk, KlShampoo(risk, options).run());
}

}  // namespace curvature
