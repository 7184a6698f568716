#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/operators/algebra.hpp>
#include <curvature/operators/sampling.hpp>
#include <curvature/optim/variational.hpp>

#include "core/check.hpp"
#include "core/inner_product.hpp"
#include "optim/curvature_source.hpp"
#include "optim/model_minimizer.hpp"

namespace curvature::optim {
namespace {

/// What random numbers are for.
constexpr uint64_t kWeights = 1, kStatistics = 2;

/// What both methods share.
struct VariationalOptions {
  double learning_rate;
  double momentum;
  double prior_precision;
  double temperature;
  double damping;
  int64_t mc_samples;
  std::optional<int64_t> num_examples;
  RandomSource random;
};

class VariationalNewton final : public detail::ModelMinimizer {
 public:
  VariationalNewton(const EmpiricalRisk& risk, const char* name, VariationalOptions options,
                    std::unique_ptr<detail::CurvatureSource> source)
      : ModelMinimizer(risk, name, options.learning_rate),
        options_(std::move(options)),
        num_examples_(static_cast<double>(options_.num_examples.value_or(risk.num_examples()))),
        source_(std::move(source)) {
    const auto usable = [](double value) { return value >= 0 && std::isfinite(value); };
    CURVATURE_CHECK(options_.momentum >= 0 && options_.momentum < 1, OptionError,
                    "{}: momentum must be in [0, 1); got {}", name, options_.momentum);
    CURVATURE_CHECK(usable(options_.prior_precision) && usable(options_.damping), OptionError,
                    "{}: prior_precision and damping must be finite and not negative; got {} and "
                    "{}",
                    name, options_.prior_precision, options_.damping);
    CURVATURE_CHECK(options_.temperature > 0 && std::isfinite(options_.temperature), OptionError,
                    "{}: temperature must be positive; got {}", name, options_.temperature);
    CURVATURE_CHECK(options_.mc_samples >= 0 && num_examples_ > 0, OptionError,
                    "{}: expected mc_samples of at least 0 and num_examples of at least 1, got {} "
                    "and {}",
                    name, options_.mc_samples, num_examples_);
  }

  int64_t state_bytes() const override { return source_->bytes() + vector_bytes(); }

 protected:
  /// The gradient is taken at samples of the weights.
  detail::Point point_of(const EmpiricalRisk& batch) override {
    return {.parameters = detail::flat_parameters(batch), .gradient = {}};
  }

  StepReport step_from(const EmpiricalRisk& batch, const detail::Point& mean) override {
    auto source = source_->copy();
    // Curvature and gradient of the mean loss of an example.
    const double scale =
        batch.options().reduction == Reduction::kSum ? 1 / batch.total_weight() : 1;
    const SampleMeans means = look(batch, mean.parameters, *source);
    const at::Tensor gradient =
        scale * (means.gradient + batch.options().weight_decay * mean.parameters) +
        prior_pull() * mean.parameters;
    const at::Tensor momentum =
        momentum_.defined() ? options_.momentum * momentum_ + gradient : gradient;
    const OperatorPtr precision = average_precision(source->curvature(), scale);
    const at::Tensor step = inverse(precision)->apply(momentum).contiguous();
    CURVATURE_CHECK(std::isfinite(curvature::detail::norm(step)), NumericalError,
                    "{}: the step is not finite; use more damping", name());
    detail::set_parameters(batch, mean.parameters - learning_rate() * step);
    momentum_ = momentum;
    precision_ = precision;
    scale_ = scale;
    source_ = std::move(source);
    ++steps_;
    return {.loss = means.loss,
            .gradient_norm = curvature::detail::norm(gradient),
            .learning_rate = learning_rate(),
            .damping = options_.damping};
  }

  void save_state(detail::StateWriter& writer) const override {
    writer.number("step", static_cast<double>(steps_));
    writer.number("scale", scale_);
    writer.vector("momentum", risk().space(), momentum_);
    source_->save(writer);
  }

  void load_state(const detail::StateReader& reader) override {
    auto source = source_->copy();
    source->load(reader);
    const at::Tensor momentum = reader.vector("momentum", risk().space(), options());
    const double steps = reader.number("step"), scale = reader.number("scale");
    const OperatorPtr curvature = source->curvature();
    precision_ = curvature ? average_precision(curvature, scale) : nullptr;
    scale_ = scale;
    steps_ = static_cast<int64_t>(steps);
    momentum_ = momentum;
    source_ = std::move(source);
  }

 private:
  struct SampleMeans {
    double loss = 0;
    at::Tensor gradient;  ///< of the batch's risk, weight decay not included
  };

  /// The prior's part of the gradient, times the mean.
  double prior_pull() const {
    return options_.temperature * options_.prior_precision / num_examples_;
  }

  /// C + e I. Eigenvectors of C are computed once for all that is done with it.
  OperatorPtr average_precision(const OperatorPtr& curvature, double scale) {
    if (curvature != curvature_) {
      eigen_ = function(curvature, [](const at::Tensor& l) { return l.clamp_min(0); });
      curvature_ = curvature;
    }
    return shifted(scaled(eigen_, scale),
                   prior_pull() + scale * risk().options().weight_decay + options_.damping);
  }

  /// Means over samples of the weights; the first step looks at the mean alone.
  SampleMeans look(const EmpiricalRisk& batch, const at::Tensor& mean,
                   detail::CurvatureSource& source) const {
    const bool is_noisy = precision_ != nullptr && options_.mc_samples > 0;
    const int64_t count = is_noisy ? options_.mc_samples : 1;
    SampleMeans means{.gradient = at::zeros_like(mean)};
    for (int64_t index = 0; index < count; ++index) {
      const at::Tensor weights = is_noisy ? mean + noise(steps_ * count + index) : mean;
      const detail::TrialParameters there(batch, weights);
      const LossAndGradient at = batch.loss_and_gradient();
      means.loss += at.loss / static_cast<double>(count);
      means.gradient.add_(
          detail::flat(batch.space(), at.gradient) - batch.options().weight_decay * weights,
          1 / static_cast<double>(count));
      source.observe(batch, {.index = index, .count = count});
    }
    return means;
  }

  /// A draw from the Gaussian around the mean.
  at::Tensor noise(int64_t number) const {
    return sample_inverse(*precision_, options_.random.derive(kWeights), 1, number).squeeze(1) *
           std::sqrt(options_.temperature / num_examples_);
  }

  VariationalOptions options_;
  double num_examples_;
  std::unique_ptr<detail::CurvatureSource> source_;
  OperatorPtr curvature_, eigen_;  ///< of the last step
  OperatorPtr precision_;          ///< C + e I after the last step; null before the first
  double scale_ = 1;
  at::Tensor momentum_;
  int64_t steps_ = 0;
};

/// What both methods have.
template <class Options>
VariationalOptions common_options(const Options& options) {
  return {.learning_rate = options.learning_rate,
          .momentum = options.momentum,
          .prior_precision = options.prior_precision,
          .temperature = options.temperature,
          .damping = options.damping,
          .mc_samples = options.mc_samples,
          .num_examples = options.num_examples,
          .random = options.random};
}

}  // namespace

std::unique_ptr<Minimizer> vogn(const EmpiricalRisk& risk, const VognOptions& options) {
  return std::make_unique<VariationalNewton>(risk, "vogn", common_options(options),
                                             detail::squared_gradient_source(risk, options.decay));
}

std::unique_ptr<Minimizer> noisy_kfac(const EmpiricalRisk& risk, const NoisyKfacOptions& options) {
  const KfacOptions layers{.fisher = options.fisher,
                           .weight_sharing = options.weight_sharing,
                           .fallback = options.fallback,
                           .random = options.random.derive(kStatistics)};
  return std::make_unique<VariationalNewton>(
      risk, "noisy-kfac", common_options(options),
      detail::kfac_source(risk, layers,
                          {.decay = options.decay,
                           .statistics_interval = options.statistics_interval,
                           .refresh_interval = options.refresh_interval}));
}

}  // namespace curvature::optim
