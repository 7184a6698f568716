#include "cli/training.hpp"

#include <cmath>

#include "core/check.hpp"
#include "core/finite.hpp"

namespace curvature::cli {
namespace {

/// Does a part of a step; what goes wrong with numbers, data or model gets the step's number.
template <class Job>
void in_step(int64_t step, const Job& job) {
  const auto message = [step](const Error& error) {
    return fmt::format("train: step {}: {}", step, error.what());
  };
  try {
    job();
  } catch (const NumericalError& error) {
    throw NumericalError(message(error));
  } catch (const DataError& error) {
    throw DataError(message(error));
  } catch (const ModelError& error) {
    throw ModelError(message(error));
  }
}

optim::StepReport take_step(Training& training, int64_t step) {
  optim::Minimizer& minimizer = *training.optimizer.minimizer;
  // A method may adapt its learning rate itself where no schedule does.
  if (!training.schedule.is_flat()) {
    minimizer.set_learning_rate(training.learning_rate * training.schedule.factor(step));
  }
  const DatasetPtr batch = training.order.batch(step);
  // Draws of different steps differ, also where they see the same examples.
  const int64_t first_example = (step - 1) * training.order.batch_size();
  const optim::StepReport report = minimizer.step(training.risk.with_data(batch, first_example));
  CURVATURE_CHECK(std::isfinite(report.loss) && std::isfinite(report.gradient_norm), NumericalError,
                  "expected a finite loss and gradient, got {} and {}", report.loss,
                  report.gradient_norm);
  return report;
}

Json line_of(const Training& training, int64_t step, const optim::StepReport& report,
             std::optional<double> validation_loss, double seconds) {
  Json line = {{"step", step},
               {"epoch", training.order.epoch_of(step)},
               {"loss", report.loss},
               {"gradient_norm", report.gradient_norm},
               {"learning_rate", report.learning_rate}};
  if (report.damping) line["damping"] = *report.damping;
  if (!report.accepted) line["accepted"] = false;
  if (validation_loss) line["validation_loss"] = *validation_loss;
  if (!training.warnings->empty()) line["warnings"] = *training.warnings;
  line["seconds"] = seconds;
  return line;
}

}  // namespace

void check_parameters_finite(const EmpiricalRisk& risk, const std::string& when) {
  for (size_t i = 0; i < risk.parameters().size(); ++i) {
    CURVATURE_CHECK(detail::is_finite(risk.parameters()[i]), NumericalError,
                    "{}: parameter '{}' is not finite; expected numbers, got NaN or infinity; try "
                    "a smaller learning rate",
                    when, risk.space().entries()[i].name);
  }
}

TrainingResult run_steps(Training& training, const Progression& begin, const Checkpoint& checkpoint,
                         TrainingLog& log, const Observer& observer) {
  const Stopwatch watch;
  const int64_t num_steps = training.schedule.num_steps;
  TrainingResult result{.last = {}, .validation_loss = {}, .seconds = begin.seconds};
  for (int64_t step = begin.step + 1; step <= num_steps; ++step) {
    const auto is_due = [step](int64_t every) { return every > 0 && step % every == 0; };
    std::optional<double> validation_loss;
    in_step(step, [&] {
      result.last = take_step(training, step);
      if (training.validation && is_due(training.validate_every)) {
        const EvaluatedIterates evaluated(training.optimizer);
        validation_loss = training.validation->loss();
      }
    });
    if (validation_loss) result.validation_loss = validation_loss;
    result.seconds = begin.seconds + watch.seconds();
    log.write(line_of(training, step, *result.last, validation_loss, result.seconds));
    training.warnings->clear();
    const bool saves = !training.checkpoint_folder.empty() &&
                       (is_due(training.checkpoint_every) || step == num_steps);
    if (saves) {
      check_parameters_finite(training.risk, fmt::format("train: step {}", step));
      log.synchronize();  // a log may be ahead of its checkpoint, never behind
      checkpoint.save(training.checkpoint_folder, {step, result.seconds}, training.metadata);
    }
    if (observer) observer({"Training", step, num_steps});
  }
  return result;
}

}  // namespace curvature::cli
