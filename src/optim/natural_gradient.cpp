#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/stack.h>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/optim/natural_gradient.hpp>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "optim/curvature_source.hpp"
#include "optim/model_minimizer.hpp"
#include "optim/random_part.hpp"

namespace curvature::optim {
namespace {

using curvature::detail::inner;

KfacOptions layer_options(const NaturalGradientOptions& options) {
  return {.fisher = options.fisher,
          .mc_samples = options.mc_samples,
          .weight_sharing = options.weight_sharing,
          .separate_bias = options.separate_bias,
          .fallback = options.fallback,
          .random = options.random};
}

std::unique_ptr<detail::CurvatureSource> make_source(const EmpiricalRisk& risk,
                                                     const NaturalGradientOptions& options) {
  const detail::LayerwiseSchedule schedule{.decay = options.decay,
                                           .statistics_interval = options.statistics_interval,
                                           .refresh_interval = options.refresh_interval};
  switch (options.curvature) {
    case FisherApproximation::kEkfac:
      return detail::ekfac_source(risk, layer_options(options), schedule);
    case FisherApproximation::kKfoc:
      return detail::kfoc_source(risk, layer_options(options), schedule);
    case FisherApproximation::kFull:
      return detail::low_rank_source(options.fisher,
                                     {.samples = options.mc_samples, .random = options.random});
    case FisherApproximation::kKfac:
      break;
  }
  return detail::kfac_source(risk, layer_options(options), schedule);
}

const char* name_of(FisherApproximation curvature) {
  switch (curvature) {
    case FisherApproximation::kEkfac:
      return "ekfac";
    case FisherApproximation::kKfoc:
      return "kfoc";
    case FisherApproximation::kFull:
      return "natural-gradient";
    case FisherApproximation::kKfac:
      break;
  }
  return "kfac";
}

/// Sets what is drawn for the statistics and for the model apart from the draws of labels.
constexpr uint64_t kStatisticsExamples = 0x7461753100000000;
constexpr uint64_t kModelExamples = 0x7461753200000000;

/// Whether the inverse is cheaper than eigenvectors.
bool is_low_rank(const LinearOperator& curvature) {
  return std::holds_alternative<LowRankStructure>(curvature.structure());
}

/// The inverse of a damped curvature, kept as long as both stay the same. Exact damping goes
/// through eigenvectors, which outlive a change of the damping.
class DampedInverse {
 public:
  explicit DampedInverse(const NaturalGradientOptions& options)
      : kind_(options.damping_kind), relative_(options.relative_damping) {}

  /// `weight_decay` is added to the curvature itself.
  OperatorPtr of(const OperatorPtr& curvature, double damping, double weight_decay) {
    if (curvature != curvature_) {
      base_ = kind_ == KroneckerDamping::kExact && !is_low_rank(*curvature)
                  ? function(curvature, [](const at::Tensor& l) { return l.clamp_min(0); })
                  : curvature;
      curvature_ = curvature;
      inverse_ = nullptr;
    }
    if (!inverse_ || damping != damping_ || weight_decay != weight_decay_) {
      inverse_ = inverse_with(damping, weight_decay);
      damping_ = damping;
      weight_decay_ = weight_decay;
    }
    return inverse_;
  }

 private:
  OperatorPtr inverse_with(double damping, double weight_decay) const {
    if (!relative_)
      return damped_inverse(base_, {.damping = damping + weight_decay, .kind = kind_});
    const DampingOptions relative = {.damping = damping, .kind = kind_, .relative = true};
    return weight_decay == 0
               ? damped_inverse(base_, relative)
               : damped_inverse(damped(base_, relative), {.damping = weight_decay, .kind = kind_});
  }

  KroneckerDamping kind_;
  bool relative_;
  OperatorPtr curvature_, base_, inverse_;
  double damping_ = 0, weight_decay_ = 0;
};

/// An update and what the model says of it.
struct Update {
  at::Tensor delta = {};
  double rate = 0;                          ///< of the direction
  std::optional<double> model_change = {};  ///< without damping
  double objective = 0;                     ///< change of the damped model, where there is one
};

class NaturalGradient final : public detail::ModelMinimizer {
 public:
  NaturalGradient(const EmpiricalRisk& risk, const NaturalGradientOptions& options)
      : ModelMinimizer(risk, name_of(options.curvature), options.learning_rate),
        options_(options),
        control_({.rule = options.damping_rule,
                  .damping = options.damping,
                  .min_damping = options.min_damping,
                  .max_damping = options.max_damping,
                  .factor = options.damping_factor}),
        source_(make_source(risk, options)),
        inverse_(options),
        factor_damping_(options.damping + risk.options().weight_decay) {
    check_options();
  }

  int64_t state_bytes() const override {
    return source_->bytes() + (keeps_update() ? vector_bytes() : 0);
  }

 protected:
  StepReport step_from(const EmpiricalRisk& batch, const detail::Point& point) override {
    auto source = source_->copy();
    const detail::Part examples = part_of(batch, options_.statistics_fraction, kStatisticsExamples);
    source->observe(examples.risk, {.scale = examples.scale});
    const Task task{.batch = batch,
                    .point = point,
                    .model = part_of(batch, options_.model_fraction, kModelExamples)};
    DampedInverse inverse = inverse_;
    DampingControl control = control_;
    const double damping = control.damping(point.gradient_norm);
    double factor_damping = factor_damping_;
    const Update update = best_update(task, source->curvature(), damping, inverse, factor_damping);
    const bool accepted = accept(task, update, damping, control);
    StepReport report{.loss = point.loss,
                      .gradient_norm = point.gradient_norm,
                      .learning_rate = update.rate,
                      .damping = damping,
                      .accepted = accepted};
    if (accepted) {
      detail::set_parameters(batch, point.parameters + update.delta);
      if (keeps_update()) last_update_ = update.delta;
    }
    source_ = std::move(source);
    inverse_ = std::move(inverse);
    control_ = control;
    factor_damping_ = factor_damping;
    ++steps_;
    return report;
  }

  void save_state(detail::StateWriter& writer) const override {
    writer.number("step", static_cast<double>(steps_));
    writer.number("damping", control_.value());
    writer.number("failures", static_cast<double>(control_.failures()));
    writer.number("factor_damping", factor_damping_);
    writer.vector("last_update", risk().space(), last_update_);
    source_->save(writer);
  }

  void load_state(const detail::StateReader& reader) override {
    auto source = make_source(risk(), options_);
    source->load(reader);
    const at::Tensor last_update = reader.vector("last_update", risk().space(), options());
    const double steps = reader.number("step"), factor_damping = reader.number("factor_damping");
    control_.restore(reader.number("damping"), static_cast<int64_t>(reader.number("failures")));
    source_ = std::move(source);
    inverse_ = DampedInverse(options_);
    last_update_ = last_update;
    steps_ = static_cast<int64_t>(steps);
    factor_damping_ = factor_damping;
  }

 private:
  void check_options() const {
    CURVATURE_CHECK(options_.momentum >= 0 && options_.momentum < 1, OptionError,
                    "{}: momentum must be in [0, 1); got {}", name(), options_.momentum);
    CURVATURE_CHECK(options_.norm_constraint > 0 && options_.trust_radius > 0, OptionError,
                    "{}: norm_constraint and trust_radius must be positive; got {} and {}", name(),
                    options_.norm_constraint, options_.trust_radius);
    CURVATURE_CHECK(options_.damping_interval > 0 && options_.factor_damping_interval >= 0,
                    OptionError,
                    "{}: expected damping_interval of at least 1 and factor_damping_interval of at "
                    "least 0, got {} and {}",
                    name(), options_.damping_interval, options_.factor_damping_interval);
    for (const double fraction : {options_.statistics_fraction, options_.model_fraction}) {
      CURVATURE_CHECK(fraction > 0 && fraction <= 1, OptionError,
                      "{}: statistics_fraction and model_fraction must be in (0, 1]; got {} and {}",
                      name(), options_.statistics_fraction, options_.model_fraction);
    }
    CURVATURE_CHECK(options_.model_fraction == 1 || uses_model(), OptionError,
                    "{}: model_fraction needs StepSize::kQuadraticModel or kTrustRegion, or "
                    "adaptive damping",
                    name());
    CURVATURE_CHECK(!control_.needs_new_gradient(), OptionError,
                    "{}: damping_rule must be kConstant, kLevenbergMarquardt or kNielsen", name());
    CURVATURE_CHECK(!options_.relative_damping ||
                        (!control_.adapts() && options_.step_size != StepSize::kQuadraticModel),
                    OptionError,
                    "{}: relative_damping goes with constant damping and without the quadratic "
                    "model",
                    name());
    CURVATURE_CHECK(
        options_.factor_damping_interval == 0 || options_.step_size == StepSize::kQuadraticModel,
        OptionError, "{}: factor_damping_interval needs StepSize::kQuadraticModel", name());
  }

  /// What a step is made from.
  struct Task {
    const EmpiricalRisk& batch;
    const detail::Point& point;
    detail::Part model;  ///< whose GGN is the quadratic model's
  };

  detail::Part part_of(const EmpiricalRisk& batch, double fraction, uint64_t purpose) const {
    return detail::random_part(batch, fraction, options_.random.derive(purpose),
                               static_cast<uint64_t>(steps_));
  }

  bool uses_model() const {
    return control_.adapts() || options_.step_size == StepSize::kQuadraticModel ||
           options_.step_size == StepSize::kTrustRegion;
  }

  bool keeps_update() const {
    return options_.momentum > 0 || options_.step_size == StepSize::kQuadraticModel;
  }

  /// The step of the damping that the model likes best, of one or three.
  Update best_update(const Task& task, const OperatorPtr& curvature, double damping,
                     DampedInverse& inverse, double& factor_damping) const {
    const double weight_decay = task.batch.options().weight_decay;
    if (options_.factor_damping_interval == 0) {
      return propose(task, inverse.of(curvature, damping, weight_decay), damping);
    }
    std::optional<Update> best;
    double chosen = factor_damping;
    for (const double candidate : factor_dampings(factor_damping)) {
      const Update update =
          propose(task, inverse.of(curvature, candidate, /*weight_decay=*/0), damping);
      if (best && !(update.objective < best->objective)) continue;
      best = update;
      chosen = candidate;
    }
    factor_damping = chosen;
    return *best;
  }

  /// gamma^2 of section 6.6: omega_2 = (19/20)^(T_2 / 2), squared.
  std::vector<double> factor_dampings(double now) const {
    if (steps_ % options_.factor_damping_interval != 0) return {now};
    const double ratio = std::pow(19.0 / 20, static_cast<double>(options_.factor_damping_interval));
    return {now, std::max(now * ratio, options_.min_damping),
            std::min(now / ratio, options_.max_damping)};
  }

  Update propose(const Task& task, const OperatorPtr& inverse, double damping) const {
    const at::Tensor direction = inverse->apply(task.point.gradient).contiguous();
    Update update = options_.step_size == StepSize::kQuadraticModel
                        ? model_update(task, direction, damping)
                        : fixed_update(task, direction);
    CURVATURE_CHECK(std::isfinite(curvature::detail::norm(update.delta)), NumericalError,
                    "{}: the step is not finite; use more damping", name());
    return update;
  }

  /// V^T G V for the GGN of the batch, weight decay included, as the model's examples know it.
  static at::Tensor curvatures_along(const Task& task, const at::Tensor& columns) {
    const at::Tensor gram = ggn_gram(task.model.risk, columns);
    if (task.model.scale == 1) return gram;
    const at::Tensor doubles = columns.to(at::kDouble);
    const at::Tensor decay = task.batch.options().weight_decay * doubles.t().mm(doubles).cpu();
    return task.model.scale * (gram - decay) + decay;
  }

  /// The exact model along columns, without damping.
  static DirectionalModel model_along(const Task& task, const TensorList& directions) {
    const at::Tensor columns = at::stack(directions, 1);
    return {.slopes = columns.t().to(at::kDouble).mv(task.point.gradient.to(at::kDouble)).cpu(),
            .curvatures = curvatures_along(task, columns)};
  }

  Update model_update(const Task& task, const at::Tensor& direction, double damping) const {
    TensorList directions = {-direction};
    if (last_update_.defined()) directions.push_back(last_update_);
    const DirectionalModel model = model_along(task, directions);
    const at::Tensor columns = at::stack(directions, 1).to(at::kDouble);
    const DirectionalModel damped_model{model.slopes,
                                        model.curvatures + damping * columns.t().mm(columns).cpu()};
    const DirectionalMinimum best = minimize(damped_model);
    const at::Tensor coefficients = learning_rate() * best.coefficients;
    Update update{.rate = coefficients[0].item<double>(),
                  .model_change = change_of(model, coefficients),
                  .objective = best.change};
    update.delta = update.rate * directions[0];
    if (directions.size() == 2) update.delta.add_(directions[1], coefficients[1].item<double>());
    return update;
  }

  Update fixed_update(const Task& task, const at::Tensor& direction) const {
    Update update{.rate = step_length(task, direction)};
    update.delta = -update.rate * direction;
    if (last_update_.defined()) update.delta.add_(last_update_, options_.momentum);
    return update;
  }

  double step_length(const Task& task, const at::Tensor& direction) const {
    const double rate = learning_rate();
    if (options_.step_size == StepSize::kNormConstraint) {
      const double length = inner(direction, task.point.gradient);
      return length > 0 ? std::min(rate, std::sqrt(options_.norm_constraint / length)) : rate;
    }
    if (options_.step_size == StepSize::kTrustRegion) {
      const double length = curvatures_along(task, direction.unsqueeze(1)).item<double>();
      return length > 0 ? std::min(rate, std::sqrt(2 * options_.trust_radius / length)) : rate;
    }
    return rate;
  }

  /// Looks at the loss after the update where somebody wants to know.
  bool accept(const Task& task, const Update& update, double damping,
              DampingControl& control) const {
    const bool adapts = control.adapts() && (steps_ + 1) % options_.damping_interval == 0;
    if (!adapts && !options_.reject_increase) return true;
    const double new_loss = detail::loss_at(task.batch, task.point.parameters + update.delta);
    const TrialStep trial{.damping = damping,
                          .loss = task.point.loss,
                          .new_loss = new_loss,
                          .model_change = change_of_model(task, update),
                          .step_norm = curvature::detail::norm(update.delta),
                          .loss_rounding = loss_rounding(task.point.loss)};
    const bool is_better = new_loss <= task.point.loss + trial.loss_rounding;
    if (adapts || !is_better) control.judge(trial);
    return is_better || !options_.reject_increase;
  }

  static double change_of_model(const Task& task, const Update& update) {
    if (update.model_change) return *update.model_change;
    const DirectionalModel model = model_along(task, {update.delta});
    return change_of(model, at::ones({1}, at::kDouble));
  }

  NaturalGradientOptions options_;
  DampingControl control_;
  std::unique_ptr<detail::CurvatureSource> source_;
  DampedInverse inverse_;
  double factor_damping_;
  at::Tensor last_update_;
  int64_t steps_ = 0;
};

}  // namespace

std::unique_ptr<Minimizer> natural_gradient(const EmpiricalRisk& risk,
                                            const NaturalGradientOptions& options) {
  return std::make_unique<NaturalGradient>(risk, options);
}

}  // namespace curvature::optim
