#include "trial.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <ctime>
#include <limits>

#include <ATen/core/Tensor.h>

#include <curvature/core/error.hpp>

namespace curvature::benchmark {
namespace {

/// Seconds that this process has computed for, whatever else the machine does.
double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

double wall_seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// What the learning rate of step `t`, from 0, is multiplied by: linear up, then down to 0.
double schedule(int64_t t, int64_t num_steps, bool constant) {
  const int64_t warm = std::max<int64_t>(num_steps / 20, 1);
  if (t < warm) return static_cast<double>(t + 1) / static_cast<double>(warm);
  if (constant) return 1;
  return static_cast<double>(num_steps - t) / static_cast<double>(num_steps - warm);
}

double evaluate(Trainee& trainee, optim::Preconditioned& optimizer) {
  optimizer.eval();
  const double loss = trainee.held_out_loss();
  optimizer.train();
  return loss;
}

/// False if the loss or a gradient is not finite.
bool step(Trainee& trainee, optim::Preconditioned& optimizer) {
  const at::Tensor loss = trainee.next_loss();
  if (!std::isfinite(loss.item<double>())) return false;
  optimizer.zero_grad();
  loss.backward();
  try {
    optimizer.step();
  } catch (const NumericalError&) {
    return false;
  }
  return true;
}

}  // namespace

Json identity(const Trial& trial) {
  Json row = {{"task", trial.problem->name},
              {"method", trial.method->name},
              {"learning_rate", trial.learning_rate},
              {"seed", trial.seed},
              {"steps", trial.problem->num_steps}};
  row.update(trial.problem->sizes);
  return row;
}

Json run(const Trial& trial) {
  const int64_t num_steps = trial.problem->num_steps;
  const auto trainee = trial.problem->start(trial.seed);
  const auto optimizer = make_optimizer(*trial.method, trainee->parameters());
  Json curve = Json::array();
  constexpr double kDiverged = std::numeric_limits<double>::quiet_NaN();
  double last = kDiverged;
  double seconds = 0, wall = 0;
  for (int64_t t = 0; t < num_steps; ++t) {
    optimizer->set_learning_rate(trial.learning_rate *
                                 schedule(t, num_steps, trial.method->constant_rate));
    const double begin = processor_seconds(), wall_begin = wall_seconds();
    const bool finite = step(*trainee, *optimizer);
    seconds += processor_seconds() - begin;
    wall += wall_seconds() - wall_begin;
    last = kDiverged;
    if (!finite) break;
    const int64_t done = t + 1;
    if (done % trial.evaluate_every != 0 && done != num_steps) continue;
    last = evaluate(*trainee, *optimizer);
    if (!std::isfinite(last)) break;
    curve.push_back({done, last, seconds});
  }
  Json row = identity(trial);
  row["final_loss"] = std::isfinite(last) ? Json(last) : Json();
  row["seconds"] = seconds;
  row["wall_seconds"] = wall;
  row["curve"] = std::move(curve);
  return row;
}

}  // namespace curvature::benchmark
