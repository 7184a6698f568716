#include <optional>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/outer.h>

#include <curvature/layerwise/kfac_estimator.hpp>
#include <curvature/operators/eigen_decomposed.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/check.hpp"
#include "layerwise/assemble.hpp"
#include "layerwise/columns_in_basis.hpp"
#include "layerwise/kfac_statistics.hpp"
#include "operators/support.hpp"

namespace curvature {

struct KfacEstimator::State {
  EmpiricalRisk risk;
  KfacOptions options;
  double decay;
  std::optional<detail::KfacStatistics> statistics = {};  ///< once the layers are known

  void observe(const BatchRisk& batch, detail::KfacStatistics::Targets targets) {
    if (!statistics) start(detail::plan_layers(risk, options, batch));
    if (decay != 1) statistics->decay(decay, targets);
    add(batch, targets);
  }

  /// Of several batches one decays what was seen before.
  void observe(const EmpiricalRisk& examples, int64_t offset,
               detail::KfacStatistics::Targets targets) {
    for (int64_t index = 0; index < examples.data().num_batches(); ++index) {
      const BatchRisk view = examples.on(index);
      // Of this risk, not of the examples: statistics are in its scale.
      const BatchRisk batch = risk.on(view.batch(), offset + view.first_example());
      if (index == 0) {
        observe(batch, targets);
      } else {
        add(batch, targets);
      }
    }
  }

  void add(const BatchRisk& batch, detail::KfacStatistics::Targets targets) {
    detail::for_each_piece(risk, statistics->plan(), batch, [&](const BatchRisk& piece) {
      statistics->add(piece, detail::record(risk, piece), targets);
    });
  }

  void start(detail::LayerPlan plan) {
    detail::refuse_uncovered(risk, plan, options);
    statistics.emplace(risk, options, std::move(plan));
  }

  OperatorPtr operator_of(const std::vector<detail::FactorPair>& factors) const {
    const at::NoGradGuard no_grad;
    std::vector<OperatorPtr> inner;
    for (size_t i = 0; i < factors.size(); ++i) {
      const auto& [a, b] = factors[i];
      const detail::LayerBlock& block = statistics->plan().blocks[i];
      if (block.one_hot) {
        const detail::SymmetricEigen eigen = detail::symmetric_eigen(
            b, fmt::format("output factor of '{}'", detail::layer_name(risk.space(), block)));
        inner.push_back(
            detail::columns_in_basis(eigen.vectors, at::outer(eigen.values.clamp_min(0), a)));
      } else {
        inner.push_back(kronecker({b, a}, Symmetry::kPositiveSemidefinite));
      }
    }
    return detail::assemble(risk, options, statistics->plan(), std::move(inner), "KFAC");
  }

  bool has_basis() const { return statistics && statistics->has_basis(); }

  void check_basis() const {
    CURVATURE_CHECK(seen().has_basis(), OptionError,
                    "KfacEstimator: has no basis to correct in; call refresh_basis first");
  }

  const detail::KfacStatistics& seen() const {
    CURVATURE_CHECK(statistics && statistics->num_examples() > 0, OptionError,
                    "KfacEstimator: has seen no batch; call update first");
    return *statistics;
  }
};

KfacEstimator::KfacEstimator(EmpiricalRisk risk, KfacOptions options, double decay) {
  detail::check_options(options);
  CURVATURE_CHECK(decay > 0 && decay <= 1, OptionError,
                  "KfacEstimator: decay must be in (0, 1]; got {}", decay);
  state_ = std::make_unique<State>(State{std::move(risk), std::move(options), decay});
}

KfacEstimator::~KfacEstimator() = default;
KfacEstimator::KfacEstimator(KfacEstimator&&) noexcept = default;
KfacEstimator& KfacEstimator::operator=(KfacEstimator&&) noexcept = default;

void KfacEstimator::update(const BatchRisk& batch) {
  state_->observe(batch, {.factors = true, .squares = state_->has_basis()});
}

void KfacEstimator::update(const EmpiricalRisk& examples, int64_t offset) {
  state_->observe(examples, offset, {.factors = true, .squares = state_->has_basis()});
}

void KfacEstimator::correct(const BatchRisk& batch) {
  state_->check_basis();
  state_->observe(batch, {.factors = false, .squares = true});
}

void KfacEstimator::correct(const EmpiricalRisk& examples, int64_t offset) {
  state_->check_basis();
  state_->observe(examples, offset, {.factors = false, .squares = true});
}

void KfacEstimator::refresh_basis() {
  CURVATURE_CHECK(state_->options.fisher != Fisher::kForwardOnly, OptionError,
                  "ekfac: forward-only has no gradients to correct with; use kfac");
  state_->seen();
  state_->statistics->refresh_basis();
}

void KfacEstimator::merge(const KfacEstimator& other) {
  if (!other.state_->statistics) return;
  if (!state_->statistics) state_->start(other.state_->statistics->plan());
  state_->statistics->merge(*other.state_->statistics);
}

KfacEstimator KfacEstimator::clone() const {
  KfacEstimator other(state_->risk, state_->options, state_->decay);
  if (state_->statistics) other.state_->statistics.emplace(state_->statistics->clone());
  return other;
}

double KfacEstimator::num_examples() const {
  return state_->statistics ? state_->statistics->num_examples() : 0;
}

OperatorPtr KfacEstimator::kfac() const& { return state_->operator_of(state_->seen().factors()); }

OperatorPtr KfacEstimator::kfac() && {
  state_->seen();
  return state_->operator_of(std::move(*state_->statistics).factors());
}

OperatorPtr KfacEstimator::ekfac() const {
  const detail::KfacStatistics& seen = state_->seen();
  CURVATURE_CHECK(seen.num_corrected_examples() > 0, OptionError,
                  "KfacEstimator: no eigenvalues were collected; call refresh_basis, then update "
                  "or correct");
  std::vector<OperatorPtr> inner;
  const std::vector<detail::FactorPair> bases = seen.bases();
  const TensorList eigenvalues = seen.eigenvalues();
  for (size_t i = 0; i < bases.size(); ++i) {
    inner.push_back(
        seen.plan().blocks[i].one_hot
            ? detail::columns_in_basis(bases[i].b, eigenvalues[i])
            : eigen_decomposed(kronecker({bases[i].b, bases[i].a}), eigenvalues[i].reshape({-1})));
  }
  return detail::assemble(state_->risk, state_->options, seen.plan(), std::move(inner), "EKFAC");
}

Archive KfacEstimator::save() const { return state_->seen().save(); }

void KfacEstimator::load(const Archive& archive) {
  if (!state_->statistics) state_->start(detail::plan_layers(state_->risk, state_->options));
  state_->statistics->load(archive);
}

}  // namespace curvature
