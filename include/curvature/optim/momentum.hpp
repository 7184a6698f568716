#pragma once

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

#include <curvature/optim/state.hpp>

namespace curvature::optim {

/// How earlier gradients enter.
enum class Averaging {
  kMovingAverage,  ///< M <- beta M + (1 - beta) G
  kHeavyBall,      ///< M <- beta M + G
  kRunningMean,  ///< M <- b M + (1 - b) G with b = min((t - 1) / t, beta): unbiased from the start
};

/// Where momentum stands.
enum class MomentumPlace {
  kBefore,  ///< the momentum is preconditioned
  kAfter,   ///< preconditioned gradients are summed
};

/// How gradients (or directions) are filtered.
struct MomentumOptions {
  double beta = 0.9;                                ///< 0 for none, below 1
  Averaging averaging = Averaging::kMovingAverage;  ///< see there
  /// The newest gradient counts once more: (1 - beta) G + beta M, or G + beta M for the heavy ball.
  bool nesterov = false;
  /// A moving average is divided by the weight that it gives to what it has seen: 1 - beta^t.
  bool bias_correction = true;
  MomentumPlace place = MomentumPlace::kBefore;  ///< see there
};

/// A tensor times a number that is not multiplied yet: it costs nothing if whoever goes through the
/// tensor next takes it along.
struct ScaledTensor {
  at::Tensor tensor;  ///< to be read only
  double factor = 1;  ///< of it
};

/// The filter of one parameter. What it keeps is in the coordinates of what it is fed, which an
/// estimator that changes its coordinates transforms.
class Momentum {
 public:
  /// @throws OptionError
  explicit Momentum(const MomentumOptions& options);

  /// Takes in `x` and returns the filtered value.
  const ScaledTensor& operator()(const at::Tensor& x);
  /// What the last call returned; only until the parameter's step ends.
  const ScaledTensor& last() const { return last_; }
  /// Applies a linear map, a change of coordinates, to what is kept.
  void transform(const std::function<at::Tensor(const at::Tensor&)>& map);
  /// Forgets `last`, which keeps a tensor alive.
  void end_step() { last_ = {}; }

  void visit(StateVisitor& visitor);                           ///< see StateVisitor
  const MomentumOptions& options() const { return options_; }  ///< as given
  int64_t& num_steps() { return t_; }  ///< values taken in, for kernels that do all at once
  at::Tensor& average(const at::Tensor& like);  ///< what is kept, zero at first, for the same

 private:
  MomentumOptions options_;
  at::Tensor average_;
  int64_t t_ = 0;
  ScaledTensor last_;
};

}  // namespace curvature::optim
