#pragma once

#include <cstdint>
#include <optional>

#include <curvature/core/archive.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature::optim {

/// What a step saw and did.
struct StepReport {
  double loss = 0;                  ///< of the batch, before the step
  double gradient_norm = 0;         ///< of the same, over all parameters of the batch's risk
  double learning_rate = 0;         ///< what the direction was multiplied by
  std::optional<double> damping{};  ///< used in this step; empty where there is none
  bool accepted = true;             ///< whether the parameters moved
};

/// Moves the parameters of a model, batch by batch.
///
/// Its state belongs to parameters by name. A step that throws leaves state and parameters as they
/// were before it.
class Minimizer {
 public:
  virtual ~Minimizer() = default;

  /// One step on the examples of `batch` (`EmpiricalRisk::with_data` makes such risks at no cost),
  /// whose parameters must be those that this minimizer was made for.
  /// @throws NumericalError that names the parameter if a gradient is not finite
  virtual StepReport step(const EmpiricalRisk& batch) = 0;

  virtual double learning_rate() const = 0;  ///< of the next step
  /// For schedules. @throws OptionError if it is negative or not finite
  virtual void set_learning_rate(double learning_rate) = 0;

  /// Everything but options and parameters; a minimizer of the same options that loads it goes on
  /// bit for bit.
  virtual Archive save() const = 0;
  /// @throws DataError that names the first parameter that does not fit, with nothing changed
  virtual void load(const Archive& archive) = 0;

  /// Bytes of state after the first steps, known before them.
  virtual int64_t state_bytes() const = 0;
};

}  // namespace curvature::optim
