#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <torch/optim/optimizer.h>

#include <curvature/model/model.hpp>
#include <curvature/optim/covariance_estimator.hpp>
#include <curvature/optim/diagonal_estimator.hpp>
#include <curvature/optim/minimizer.hpp>
#include <curvature/optim/momentum.hpp>

namespace curvature::optim {

/// Where the length of a direction comes from.
enum class Graft {
  kNone,     ///< from the direction itself
  kSgd,      ///< from the momentum
  kAdam,     ///< from Adam's direction, which it computes beside
  kRmsProp,  ///< from the momentum over the root of the second moment, without bias correction
  kUnitRms,  ///< the root of the mean square is 1
};

/// How directions get their length: U <- U |A| / (|U| + 1e-16) for each parameter, A the direction
/// of the simpler method for the same momentum.
struct GraftOptions {
  Graft kind = Graft::kNone;  ///< see there
  double beta2 = 0.95;        ///< of Adam's and RMSProp's second moment
  double epsilon = 1e-8;      ///< added to its root
  int64_t start = 1;          ///< before this step the simpler method's direction is the direction
};

/// Bounds. 0 means none; several act in the order in which they are listed.
struct ClipOptions {
  double gradient_norm = 0;  ///< of all gradients together, before anything else
  double norm = 0;           ///< of a parameter's direction
  double rms = 0;            ///< root of the mean square of a parameter's direction
  double entry = 0;          ///< absolute value of a direction's entries
  /// kappa: all directions are scaled by min(1, sqrt(kappa / |rate^2 sum <U, G>|)), which bounds
  /// the step's length in the metric of the preconditioner (its KL divergence to first order).
  double kl = 0;
};

/// Where weight decay acts.
enum class WeightDecay {
  kDecoupled,       ///< theta <- (1 - rate decay) theta before the step
  kDecoupledAfter,  ///< the same after the step
  kIndependent,     ///< theta <- (1 - decay) theta before the step, whatever the learning rate
  kGradient,        ///< decay theta is added to the gradient
  kDirection,       ///< decay theta is added to the preconditioned gradient
};

/// How parameters are pulled to zero.
struct WeightDecayOptions {
  double decay = 0;                            ///< its strength
  WeightDecay kind = WeightDecay::kDecoupled;  ///< see there
};

/// What is evaluated.
enum class Iterates {
  kLast,          ///< the parameters as they are
  kAverage,       ///< an exponential moving average of them
  kScheduleFree,  ///< Defazio et al., NeurIPS 2024: the average that replaces a schedule
};

/// Averages of the iterates. `Preconditioned::eval` puts them into the parameters and `train` takes
/// them out.
struct IterateOptions {
  Iterates kind = Iterates::kLast;  ///< see there
  double decay = 0.999;             ///< of the moving average
  double interpolation = 0.9;       ///< of schedule-free, where gradients are taken: 0 at z, 1 at x
};

/// Which tensor a parameter becomes.
enum class ShapePolicy {
  kMatrix,   ///< the first axis against all others
  kSpatial,  ///< axes 3 and later joined into one
  kTensor,   ///< as it is
};

/// What happens to a parameter with one axis longer than 1.
enum class VectorPolicy {
  kFallback,  ///< `PreconditionedOptions::fallback`
  kFull,      ///< a matrix of its own, d x d
};

/// How parameters are cut. Axes of length 1 are dropped first.
struct ViewOptions {
  ShapePolicy shape = ShapePolicy::kMatrix;        ///< see there
  VectorPolicy vectors = VectorPolicy::kFallback;  ///< see there
  int64_t merge_up_to = 0;   ///< neighbouring axes are joined while their product is at most this
  int64_t block_size = 0;    ///< longer axes are cut into blocks of their own; 0: none
  int64_t max_dense = 8192;  ///< longer axes get `beyond` instead of a matrix
  ModeKind beyond = ModeKind::kDiagonal;     ///< see `max_dense`
  std::optional<at::ScalarType> dtype = {};  ///< of the state; the parameter's own if empty
};

/// Parameters that go another way than the rest.
struct Route {
  std::vector<std::string> patterns;  ///< shell patterns of names
  EstimatorFactory estimator;         ///< what they get
};

/// How directions become steps. Each part works with all others; the defaults are those of AdamW.
struct PreconditionedOptions {
  double learning_rate = 1e-3;                   ///< of the next step
  MomentumOptions momentum{};                    ///< see there
  GraftOptions graft{};                          ///< see there
  ClipOptions clip{};                            ///< see there
  WeightDecayOptions weight_decay{};             ///< see there
  IterateOptions iterates{};                     ///< see there
  ViewOptions view{};                            ///< see there
  std::vector<Route> routes{};                   ///< the first that matches counts
  EstimatorFactory fallback = adam_estimator();  ///< for vectors and scalars; never grafted
  /// Momentum of these, which then have neither bounds nor another decay than a decoupled one;
  /// empty: momentum, bounds and decay are those of all.
  std::optional<MomentumOptions> fallback_momentum{};
  int64_t max_state_bytes = 0;  ///< more is refused; 0: all memory that is available
  /// Hears of trouble that was overcome; empty: nobody does.
  std::function<void(const std::string&)> warn = {};
};

/// Parameters with options of their own.
struct ParameterGroup {
  std::vector<NamedTensor> parameters;  ///< leaf tensors
  EstimatorFactory estimator;           ///< of those that have a matrix
  PreconditionedOptions options;        ///< of all
};

/// Options in LibTorch's shape, for schedulers; `values.learning_rate` is theirs.
class PreconditionedGroupOptions : public torch::optim::OptimizerOptions {
 public:
  /// Options of a group.
  explicit PreconditionedGroupOptions(PreconditionedOptions options) : values(std::move(options)) {}
  std::unique_ptr<torch::optim::OptimizerOptions> clone() const override;  ///< a copy
  double get_lr() const override { return values.learning_rate; }          ///< the learning rate
  void set_lr(double lr) override { values.learning_rate = lr; }           ///< the learning rate

  PreconditionedOptions values;  ///< as given, but for the learning rate
};

/// gradient -> estimator of its covariance -> direction -> update: every optimizer that needs
/// gradients only is this class with another estimator and other options.
///
/// A step is: clip gradients; decay; for each parameter let its estimator and the momentum see the
/// gradient and take the direction; graft, clip; theta <- theta - learning_rate U. A parameter
/// without a gradient is skipped, its state left alone. Learning-rate schedulers, closures,
/// parameter groups, `torch::save` and `torch::load` work as for LibTorch's own optimizers.
class Preconditioned : public torch::optim::Optimizer, public Minimizer {
 public:
  /// For all parameters alike. @throws OptionError; ShapeError
  Preconditioned(std::vector<NamedTensor> parameters, EstimatorFactory estimator,
                 PreconditionedOptions options = {});
  /// The same from what `named_parameters()` of a module returns.
  template <class Dictionary>
    requires requires(const Dictionary& items) { items.begin()->key(); }
  Preconditioned(const Dictionary& named_parameters, EstimatorFactory estimator,
                 PreconditionedOptions options = {})
      : Preconditioned(named_tensors(named_parameters), std::move(estimator), std::move(options)) {}
  /// For groups.
  explicit Preconditioned(std::vector<ParameterGroup> groups);
  ~Preconditioned() override;

  /// Adds parameters, for example of a layer that was frozen so far.
  void add_group(ParameterGroup group);
  /// LibTorch's groups have no names and no estimator: use `add_group`.
  void add_param_group(const torch::optim::OptimizerParamGroup&) = delete;

  /// One step along the gradients that the parameters have. Calls `closure` first, if there is one,
  /// to compute them. @throws NumericalError that names the parameter whose gradient is not finite,
  /// with nothing changed
  at::Tensor step(LossClosure closure = nullptr) override;
  StepReport step(const EmpiricalRisk& batch) override;

  double learning_rate() const override;
  void set_learning_rate(double learning_rate) override;

  /// Puts the averaged iterates into the parameters; calling it again changes nothing. No step is
  /// taken from there.
  void eval();
  /// Puts the iterates of training back.
  void train();

  /// State, learning rates included.
  Archive save() const override;
  void load(const Archive& archive) override;
  /// For `torch::save`: the same content.
  void save(torch::serialize::OutputArchive& archive) const override;
  /// For `torch::load`. @throws DataError as the other
  void load(torch::serialize::InputArchive& archive) override;
  int64_t state_bytes() const override;

  /// The operator that stands behind a parameter's directions (of each of its blocks, if it is
  /// cut).
  /// @throws OptionError for a name it does not know; NotSupportedError as the estimators say
  std::vector<OperatorPtr> snapshot(const std::string& parameter) const;

 private:
  struct Member;

  double update(const TensorList& gradients);
  double checked_norm(const TensorList& gradients) const;
  TensorList clip_gradients(const TensorList& gradients, double norm);
  void step_adam(const TensorList& gradients);
  void step_others(const TensorList& gradients);
  void bound_divergence(const TensorList& gradients, const TensorList& directions);
  double rate_of(size_t group) const;
  std::vector<double> learning_rates() const;  ///< of the groups

  template <class Dictionary>
  static std::vector<NamedTensor> named_tensors(const Dictionary& items) {
    std::vector<NamedTensor> result;
    for (const auto& item : items) result.push_back({item.key(), item.value()});
    return result;
  }

  std::vector<std::unique_ptr<Member>> members_;
};

}  // namespace curvature::optim
