#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include <curvature/optim/minimizer.hpp>

#include "optim/flat_parameters.hpp"

namespace curvature::optim::detail {

/// Where a step starts.
struct Point {
  at::Tensor parameters;  ///< `[n]`
  at::Tensor gradient;    ///< `[n]`, of the batch's risk
  double loss = 0;
  double gradient_norm = 0;
};

/// What the optimizers that need the model have in common: they compute a step at a point, and only
/// when all of it is there change their state and the parameters.
class ModelMinimizer : public Minimizer {
 public:
  ModelMinimizer(EmpiricalRisk risk, std::string name, double learning_rate);

  StepReport step(const EmpiricalRisk& batch) final;
  double learning_rate() const final { return learning_rate_; }
  void set_learning_rate(double learning_rate) final;
  Archive save() const final;
  void load(const Archive& archive) final;

 protected:
  /// A step from `point`; throws before it changes anything.
  virtual StepReport step_from(const EmpiricalRisk& batch, const Point& point) = 0;
  /// Where the gradient is taken: here, unless overridden.
  virtual Point point_of(const EmpiricalRisk& batch);
  virtual void save_state(StateWriter& writer) const = 0;
  /// Reads everything, then changes the state.
  virtual void load_state(const StateReader& reader) = 0;

  const EmpiricalRisk& risk() const noexcept { return risk_; }
  const std::string& name() const noexcept { return name_; }
  at::TensorOptions options() const;
  /// Bytes of one number for each parameter.
  int64_t vector_bytes() const;
  /// Differences of losses around this one that are rounding.
  double loss_rounding(double loss) const;
  /// A report of a step that moved nothing.
  static StepReport standstill(const Point& point);

 private:
  std::string format() const { return "curvature " + name_ + " 1"; }

  EmpiricalRisk risk_;
  std::string name_;
  double learning_rate_;
};

}  // namespace curvature::optim::detail
