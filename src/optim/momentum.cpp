#include <algorithm>
#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/ops/add.h>
#include <ATen/ops/zeros_like.h>

#include <curvature/optim/momentum.hpp>

#include "core/check.hpp"

namespace curvature::optim {

Momentum::Momentum(const MomentumOptions& options) : options_(options) {
  CURVATURE_CHECK(options.beta >= 0 && options.beta < 1, OptionError,
                  "Momentum: expected beta in [0, 1), got {}", options.beta);
}

at::Tensor& Momentum::average(const at::Tensor& like) {
  if (!average_.defined()) average_ = at::zeros_like(like, at::MemoryFormat::Contiguous);
  return average_;
}

const ScaledTensor& Momentum::operator()(const at::Tensor& x) {
  t_ += 1;
  if (options_.beta == 0) return last_ = {x, 1};
  const auto t = static_cast<double>(t_);
  const bool sums = options_.averaging == Averaging::kHeavyBall;
  const double old = options_.averaging == Averaging::kRunningMean
                         ? std::min((t - 1) / t, options_.beta)
                         : options_.beta;
  const double fresh = sums ? 1 : 1 - old;
  if (sums) {
    average(x).mul_(old).add_(x);
  } else {
    average(x).lerp_(x, fresh);
  }

  const bool corrects = options_.averaging == Averaging::kMovingAverage && options_.bias_correction;
  if (!options_.nesterov) {
    return last_ = {average_, corrects ? 1 / (1 - std::pow(options_.beta, t)) : 1};
  }
  return last_ = {at::add(average_ * old, x, fresh),
                  corrects ? 1 / (1 - std::pow(options_.beta, t + 1)) : 1};
}

void Momentum::transform(const std::function<at::Tensor(const at::Tensor&)>& map) {
  const bool shared = last_.tensor.is_same(average_);
  if (average_.defined()) average_ = map(average_).contiguous();
  if (shared) {
    last_.tensor = average_;
  } else if (last_.tensor.defined()) {
    last_.tensor = map(last_.tensor);
  }
}

void Momentum::visit(StateVisitor& visitor) {
  visitor.tensor("momentum", average_);
  visitor.count("momentum_steps", t_);
}

}  // namespace curvature::optim
