#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <curvature/core/progress.hpp>
#include <curvature/model/empirical_risk.hpp>

#include "cli/batch_order.hpp"
#include "cli/checkpoint.hpp"
#include "cli/optimizers/optimizer_entry.hpp"
#include "cli/schedule.hpp"
#include "cli/training_log.hpp"

namespace curvature::cli {

/// An optimizer that was made, whatever it needs.
struct TrainedBy {
  std::unique_ptr<optim::Minimizer> minimizer;
  /// The same one, if it may average iterates; null otherwise.
  optim::Preconditioned* averaging = nullptr;
};

/// Puts averaged iterates into the parameters as long as it lives.
class EvaluatedIterates {
 public:
  explicit EvaluatedIterates(const TrainedBy& optimizer) : averaging_(optimizer.averaging) {
    if (averaging_ != nullptr) averaging_->eval();
  }
  ~EvaluatedIterates() {
    if (averaging_ != nullptr) averaging_->train();
  }
  EvaluatedIterates(const EvaluatedIterates&) = delete;
  EvaluatedIterates& operator=(const EvaluatedIterates&) = delete;

 private:
  optim::Preconditioned* averaging_;
};

/// A training: what moves, on what, and who hears of it.
struct Training {
  EmpiricalRisk risk;    ///< of all data
  TrainedBy optimizer;   ///< of the risk's parameters
  double learning_rate;  ///< that the schedule multiplies
  Schedule schedule;
  BatchOrder order;
  std::optional<EmpiricalRisk> validation;             ///< empty: none
  int64_t validate_every = 0;                          ///< steps
  std::string checkpoint_folder;                       ///< empty: none
  int64_t checkpoint_every = 0;                        ///< steps
  std::map<std::string, std::string> metadata;         ///< of checkpoints
  std::shared_ptr<std::vector<std::string>> warnings;  ///< of the optimizer, since the last line
};

/// What the steps told.
struct TrainingResult {
  std::optional<optim::StepReport> last;
  std::optional<double> validation_loss;
  double seconds = 0;  ///< of all steps, those before a resumption included
};

/// Takes the steps after `begin`, each with a line in the log; the last one is followed by a
/// checkpoint. @throws NumericalError, DataError, ModelError that name the step; log and checkpoint
/// then end before it
TrainingResult run_steps(Training& training, const Progression& begin, const Checkpoint& checkpoint,
                         TrainingLog& log, const Observer& observer);

/// @throws NumericalError in the name of `when` if a parameter of the risk is not finite
void check_parameters_finite(const EmpiricalRisk& risk, const std::string& when);

}  // namespace curvature::cli
