#include "optim/curvature_source.hpp"

#include <algorithm>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>

#include <curvature/layerwise/kfac_estimator.hpp>
#include <curvature/layerwise/squared_gradients.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "layerwise/layer_plan.hpp"

namespace curvature::optim::detail {
namespace {

/// Steps in which everything is computed anew before the intervals count (Martens and Grosse 2015,
/// section 8).
constexpr int64_t kFirstSteps = 3;

/// Counts steps and says what is due in one.
struct Clock {
  LayerwiseSchedule schedule;
  int64_t steps = 0;
  int64_t examples = 0;  ///< of all workers: sets random draws apart

  bool statistics_due() const {
    return steps < kFirstSteps || steps % schedule.statistics_interval == 0;
  }
  bool refresh_due() const { return steps < kFirstSteps || steps % schedule.refresh_interval == 0; }
  void tick(const EmpiricalRisk& batch) {
    ++steps;
    examples += batch.num_examples();
  }
  void save(StateWriter& writer) const {
    writer.number("steps", static_cast<double>(steps));
    writer.number("examples", static_cast<double>(examples));
  }
  void load(const StateReader& reader) {
    steps = static_cast<int64_t>(reader.number("steps"));
    examples = static_cast<int64_t>(reader.number("examples"));
  }
};

/// What statistics that stand for all data say of a batch: under `sum` it has a part of them.
double batch_share(const EmpiricalRisk& batch, const EmpiricalRisk& all) {
  return batch.options().reduction == Reduction::kSum ? batch.total_weight() / all.total_weight()
                                                      : 1;
}

/// Numbers that the blocks of a risk's layers take, `of_block` for each; those without layer have
/// what the fallback says. Finds the layers, if nobody has yet.
template <class OfBlock>
int64_t numbers_of(const EmpiricalRisk& risk, const KfacOptions& options, const OfBlock& of_block) {
  const curvature::detail::LayerPlan plan = curvature::detail::plan_layers(risk, options);
  int64_t numbers = 0;
  for (const curvature::detail::LayerBlock& block : plan.blocks) numbers += of_block(block);
  for (const auto& [parameter, reason] : plan.uncovered) {
    const int64_t size = risk.space().entries()[parameter].size;
    numbers += options.fallback == Fallback::kBlock ? size * size : size;
  }
  return numbers;
}

/// Kronecker factors; those of one-hot inputs are diagonals.
int64_t factor_numbers(const curvature::detail::LayerBlock& block) {
  const int64_t n = block.columns();
  return block.rows * block.rows + (block.one_hot ? n : n * n);
}

/// Bases of the factors; diagonals need none.
int64_t basis_numbers(const curvature::detail::LayerBlock& block) {
  return block.rows * block.rows + (block.one_hot ? 0 : block.columns() * block.columns());
}

int64_t item_size(const EmpiricalRisk& risk) {
  return static_cast<int64_t>(risk.parameters().front().dtype().itemsize());
}

/// Block by block, so that Kronecker products stay what they are.
OperatorPtr scaled_blocks(const LinearOperator& layers, double factor) {
  const Structure structure = layers.structure();
  const auto& partition = std::get<PartitionStructure>(structure);
  std::vector<OperatorPtr> blocks;
  for (const OperatorPtr& block : partition.blocks) blocks.push_back(scaled(block, factor));
  return partition.with_blocks(std::move(blocks));
}

class KfacSource final : public CurvatureSource {
 public:
  KfacSource(const EmpiricalRisk& risk, const KfacOptions& options,
             const LayerwiseSchedule& schedule, bool corrected)
      : risk_(risk), options_(options), clock_{schedule}, corrected_(corrected) {
    CURVATURE_CHECK(!corrected || options.fisher != Fisher::kForwardOnly, OptionError,
                    "ekfac: forward-only has no gradients to correct with; use kfac");
    KfacEstimator(risk, options, schedule.decay);  // checks the options
  }

  std::unique_ptr<CurvatureSource> copy() const override {
    return std::make_unique<KfacSource>(*this);
  }

  void observe(const EmpiricalRisk& batch, Sample sample) override {
    if (clock_.statistics_due()) {
      auto next = std::make_shared<KfacEstimator>(
          current_ ? current_->clone() : KfacEstimator(risk_, options_, clock_.schedule.decay));
      next->update(batch, clock_.examples);
      if (corrected_ && clock_.refresh_due()) {
        next->refresh_basis();
        next->correct(batch, clock_.examples);
      }
      current_ = std::move(next);
      if (corrected_) use(current_);
    }
    if (!corrected_ && clock_.refresh_due() && used_ != current_) use(current_);
    set_share(sample.scale * batch_share(batch, risk_));
    clock_.tick(batch);
  }

  OperatorPtr curvature() const override { return shown_; }

  void save(StateWriter& writer) const override {
    clock_.save(writer);
    writer.number("share", share_);
    if (current_) writer.archive("statistics", current_->save());
    if (used_ && used_ != current_) writer.archive("used", used_->save());
  }

  void load(const StateReader& reader) override {
    KfacSource loaded(risk_, options_, clock_.schedule, corrected_);
    loaded.clock_.load(reader);
    loaded.current_ = estimator_of(reader.archive("statistics"));
    const auto used = estimator_of(reader.archive("used"));
    if (loaded.current_) loaded.use(used ? used : loaded.current_);
    loaded.set_share(reader.number("share"));
    *this = std::move(loaded);
  }

  int64_t bytes() const override {
    // Factors now and at the refresh, and what is made of them; for EK-FAC one set of factors, a
    // basis, sums of squares and eigenvalues.
    const auto of_block = [this](const curvature::detail::LayerBlock& block) {
      const int64_t eigenvalues = block.one_hot ? block.size() : 0;
      return basis_numbers(block) + (corrected_ ? factor_numbers(block) + 2 * block.size()
                                                : 2 * factor_numbers(block) + eigenvalues);
    };
    return numbers_of(risk_, options_, of_block) * item_size(risk_);
  }

 private:
  std::shared_ptr<const KfacEstimator> estimator_of(const Archive& archive) const {
    if (archive.tensors.empty()) return nullptr;
    auto estimator = std::make_shared<KfacEstimator>(risk_, options_, clock_.schedule.decay);
    estimator->load(archive);
    return estimator;
  }

  void use(std::shared_ptr<const KfacEstimator> estimator) {
    operator_ = corrected_ ? estimator->ekfac() : estimator->kfac();
    used_ = std::move(estimator);
    shown_ = nullptr;
  }

  void set_share(double share) {
    if (operator_ && (!shown_ || share != share_)) {
      shown_ = share == 1 ? operator_ : scaled_blocks(*operator_, share);
    }
    share_ = share;
  }

  EmpiricalRisk risk_;
  KfacOptions options_;
  Clock clock_;
  bool corrected_;
  std::shared_ptr<const KfacEstimator> current_;
  std::shared_ptr<const KfacEstimator> used_;  ///< what `operator_` was made of
  OperatorPtr operator_;
  OperatorPtr shown_;  ///< `operator_` times `share_`
  double share_ = 1;
};

/// The tensors of a block that is a Kronecker product, a diagonal or dense.
TensorList tensors_of(const LinearOperator& block) {
  const Structure structure = block.structure();
  if (const auto* product = std::get_if<KroneckerStructure>(&structure)) return product->factors;
  if (const auto* entries = std::get_if<DiagonalStructure>(&structure)) return {entries->diagonal};
  if (const auto* matrix = std::get_if<DenseStructure>(&structure)) return {matrix->matrix};
  throw NotSupportedError("kfoc: a block of unknown kind cannot be saved: " + block.describe());
}

/// A block like `block` of other tensors.
OperatorPtr block_like(const LinearOperator& block, const TensorList& tensors) {
  const Structure structure = block.structure();
  const Symmetry symmetry = block.spec().symmetry;
  if (std::holds_alternative<KroneckerStructure>(structure)) return kronecker(tensors, symmetry);
  if (std::holds_alternative<DiagonalStructure>(structure)) {
    return curvature::diagonal(tensors.front());
  }
  return dense(tensors.front(), symmetry);
}

class KfocSource final : public CurvatureSource {
 public:
  KfocSource(const EmpiricalRisk& risk, const KfacOptions& options,
             const LayerwiseSchedule& schedule)
      : risk_(risk), options_(options), clock_{schedule} {
    CURVATURE_CHECK(options.fisher != Fisher::kForwardOnly, OptionError,
                    "kfoc: forward-only has no gradients to fit; use kfac");
  }

  std::unique_ptr<CurvatureSource> copy() const override {
    return std::make_unique<KfocSource>(*this);
  }

  void observe(const EmpiricalRisk& batch, Sample sample) override {
    if (clock_.refresh_due()) {
      KfacOptions options = options_;
      options.random = options_.random.derive(static_cast<uint64_t>(clock_.steps));
      operator_ = curvature::kfoc(batch, options);
      if (sample.scale != 1) operator_ = scaled_blocks(*operator_, sample.scale);
    }
    clock_.tick(batch);
  }

  OperatorPtr curvature() const override { return operator_; }

  void save(StateWriter& writer) const override {
    clock_.save(writer);
    if (!operator_) return;
    Archive archive;
    const std::vector<OperatorPtr> blocks = blocks_of(*operator_);
    for (size_t i = 0; i < blocks.size(); ++i) {
      const TensorList tensors = tensors_of(*blocks[i]);
      for (size_t j = 0; j < tensors.size(); ++j) {
        archive.tensors[fmt::format("{}.{}", i, j)] = tensors[j].clone();
      }
    }
    writer.archive("blocks", archive);
  }

  void load(const StateReader& reader) override {
    KfocSource loaded(risk_, options_, clock_.schedule);
    loaded.clock_.load(reader);
    const Archive archive = reader.archive("blocks");
    if (!archive.tensors.empty()) loaded.operator_ = operator_of(archive);
    *this = std::move(loaded);
  }

  int64_t bytes() const override {
    // Factors and their inverse or eigenvectors; no factor is diagonal.
    const auto of_block = [](const curvature::detail::LayerBlock& block) {
      return 2 * (block.rows * block.rows + block.columns() * block.columns());
    };
    return numbers_of(risk_, options_, of_block) * item_size(risk_);
  }

 private:
  static std::vector<OperatorPtr> blocks_of(const LinearOperator& layers) {
    const Structure structure = layers.structure();
    return std::get<PartitionStructure>(structure).blocks;
  }

  /// The saved blocks where those of one example are.
  OperatorPtr operator_of(const Archive& archive) const {
    const OperatorPtr example = curvature::kfoc(one_example(), options_);
    const Structure structure = example->structure();
    const auto& partition = std::get<PartitionStructure>(structure);
    std::vector<OperatorPtr> blocks;
    for (size_t i = 0; i < partition.blocks.size(); ++i) {
      TensorList tensors = tensors_of(*partition.blocks[i]);
      for (size_t j = 0; j < tensors.size(); ++j) {
        const auto found = archive.tensors.find(fmt::format("{}.{}", i, j));
        CURVATURE_CHECK(found != archive.tensors.end() &&
                            found->second.sizes() == tensors[j].sizes() &&
                            found->second.scalar_type() == tensors[j].scalar_type(),
                        DataError, "kfoc: saved for other layers; block {} does not fit", i);
        tensors[j] = found->second.to(tensors[j].options()).clone();
      }
      blocks.push_back(block_like(*partition.blocks[i], tensors));
    }
    return partition.with_blocks(std::move(blocks));
  }

  EmpiricalRisk one_example() const {
    Batch batch = risk_.data().batch(0);
    for (at::Tensor& input : batch.inputs) input = input.narrow(0, 0, 1);
    batch.targets = batch.targets.narrow(0, 0, 1);
    batch.weights = at::Tensor();
    return risk_.with_data(batch_dataset({std::move(batch)}));
  }

  EmpiricalRisk risk_;
  KfacOptions options_;
  Clock clock_;
  OperatorPtr operator_;
};

class SquaredGradientSource final : public CurvatureSource {
 public:
  SquaredGradientSource(const EmpiricalRisk& risk, double decay) : risk_(risk), decay_(decay) {
    CURVATURE_CHECK(decay >= 0 && decay < 1, OptionError, "vogn: decay must be in [0, 1); got {}",
                    decay);
  }

  std::unique_ptr<CurvatureSource> copy() const override {
    return std::make_unique<SquaredGradientSource>(*this);
  }

  void observe(const EmpiricalRisk& batch, Sample sample) override {
    const at::Tensor mean =
        flat(batch.space(), squared_gradient_sums(batch)) * (1 / batch.total_weight());
    check_finite(batch.space(), mean);
    const double share = 1 / static_cast<double>(sample.count);
    if (is_first_step_) {
      values_ = values_.defined() ? values_ + share * mean : share * mean;
    } else {
      const double kept = sample.index == 0 ? decay_ : 1;
      values_ = kept * values_ + (1 - decay_) * share * mean;
    }
    if (sample.index + 1 == sample.count) is_first_step_ = false;
    share_ =
        sample.scale * (batch.options().reduction == Reduction::kSum ? batch.total_weight() : 1);
    operator_ = curvature::diagonal(share_ * values_, batch.space());
  }

  OperatorPtr curvature() const override { return operator_; }

  void save(StateWriter& writer) const override {
    writer.number("share", share_);
    writer.vector("squares", risk_.space(), values_);
  }

  void load(const StateReader& reader) override {
    const at::Tensor values =
        reader.vector("squares", risk_.space(), risk_.parameters().front().options());
    share_ = reader.number("share");
    is_first_step_ = !values.defined();
    values_ = values;
    operator_ = values.defined() ? curvature::diagonal(share_ * values, risk_.space()) : nullptr;
  }

  int64_t bytes() const override { return risk_.space().size() * item_size(risk_); }

 private:
  static void check_finite(const Space& space, const at::Tensor& values) {
    if (curvature::detail::is_finite(values)) return;
    const TensorList parts = space.split(values.unsqueeze(1));
    for (size_t i = 0; i < parts.size(); ++i) {
      CURVATURE_CHECK(curvature::detail::is_finite(parts[i]), NumericalError,
                      "vogn: a squared gradient of '{}' is not finite", space.entries()[i].name);
    }
  }

  EmpiricalRisk risk_;
  double decay_;
  at::Tensor values_;
  double share_ = 1;  ///< of the batch's risk in a mean of examples
  bool is_first_step_ = true;
  OperatorPtr operator_;
};

void check(const LayerwiseSchedule& schedule) {
  CURVATURE_CHECK(schedule.statistics_interval > 0 && schedule.refresh_interval > 0, OptionError,
                  "natural gradient: intervals must be at least 1; got statistics_interval {} and "
                  "refresh_interval {}",
                  schedule.statistics_interval, schedule.refresh_interval);
}

}  // namespace

std::unique_ptr<CurvatureSource> kfac_source(const EmpiricalRisk& risk, const KfacOptions& options,
                                             const LayerwiseSchedule& schedule) {
  check(schedule);
  return std::make_unique<KfacSource>(risk, options, schedule, /*corrected=*/false);
}

std::unique_ptr<CurvatureSource> ekfac_source(const EmpiricalRisk& risk, const KfacOptions& options,
                                              const LayerwiseSchedule& schedule) {
  check(schedule);
  return std::make_unique<KfacSource>(risk, options, schedule, /*corrected=*/true);
}

std::unique_ptr<CurvatureSource> kfoc_source(const EmpiricalRisk& risk, const KfacOptions& options,
                                             const LayerwiseSchedule& schedule) {
  check(schedule);
  return std::make_unique<KfocSource>(risk, options, schedule);
}

std::unique_ptr<CurvatureSource> squared_gradient_source(const EmpiricalRisk& risk, double decay) {
  return std::make_unique<SquaredGradientSource>(risk, decay);
}

}  // namespace curvature::optim::detail
