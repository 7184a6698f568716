#include <cmath>
#include <numbers>

#include <ATen/ops/cross_entropy_loss.h>
#include <torch/optim/sgd.h>

#include <curvature/matrix_free/hessian.hpp>
#include <curvature/spectral/lanczos.hpp>

#include "cli/demo_training.hpp"

namespace curvature::cli {
namespace {

// Streams of the training's random source: epoch i is shuffled by stream i.
constexpr uint64_t kLanczosStart = uint64_t{1} << 32;

void record(int64_t step, const EmpiricalRisk& risk, int64_t lanczos_steps,
            const RandomSource& random, TrainingRecords& records) {
  const OperatorPtr curvature = hessian(risk);
  const at::Tensor start =
      random.normal(kLanczosStart, curvature->cols()).to(curvature->spec().dtype);
  const RitzPairs ritz = ritz_pairs(lanczos(*curvature, start, {.num_steps = lanczos_steps}));
  records.steps.push_back(step);
  records.losses.push_back(risk.loss());
  records.top_eigenvalues.push_back(ritz.values.back());
  records.residuals.push_back(ritz.residuals.back());
}

/// The step of record `index`: steps are denser at the start, where curvature moves fast.
int64_t due(int64_t index, int64_t num_records, int64_t num_steps) {
  return num_steps * index * index / ((num_records - 1) * (num_records - 1));
}

torch::optim::SGD make_optimizer(const torch::jit::Module& network,
                                 const TrainingOptions& options) {
  TensorList parameters;
  for (const at::Tensor& parameter : network.parameters()) parameters.push_back(parameter);
  return torch::optim::SGD(
      std::move(parameters),
      torch::optim::SGDOptions(options.learning_rate).momentum(options.momentum));
}

}  // namespace

TrainingRecords train(const torch::jit::Module& network, const DemoData& data,
                      const EmpiricalRisk& risk, const TrainingOptions& options,
                      const RandomSource& random, const Observer& observer) {
  const int64_t num_images = data.train_images.size(0);
  const int64_t steps_per_epoch = num_images / options.batch_size;  // a smaller rest is left out
  const int64_t num_steps = options.epochs * steps_per_epoch;
  torch::optim::SGD optimizer = make_optimizer(network, options);
  TrainingRecords records;
  at::Tensor order;
  for (int64_t step = 0; step <= num_steps; ++step) {
    if (observer) observer({"Training", step, num_steps});
    if (step >= due(static_cast<int64_t>(records.steps.size()), options.num_records, num_steps))
      record(step, risk, options.lanczos_steps, random, records);
    if (step == num_steps) break;

    const int64_t epoch = step / steps_per_epoch, position = step % steps_per_epoch;
    if (position == 0) order = random.uniform(static_cast<uint64_t>(epoch), num_images).argsort();
    const at::Tensor batch =
        order.slice(0, position * options.batch_size, (position + 1) * options.batch_size);
    const double progress = static_cast<double>(step) / static_cast<double>(num_steps);
    optimizer.param_groups().front().options().set_lr(
        options.learning_rate * (1 + std::cos(std::numbers::pi * progress)) / 2);
    optimizer.zero_grad();
    at::cross_entropy_loss(predict(network, data.train_images.index_select(0, batch)),
                           data.train_labels.index_select(0, batch))
        .backward();
    optimizer.step();
  }
  return records;
}

}  // namespace curvature::cli
