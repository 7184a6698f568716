#include "cli/demo.hpp"

#include <ATen/Parallel.h>

#include <curvature/io/atomic_file.hpp>
#include <curvature/io/npy.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/model/torchscript.hpp>

#include "cli/demo_data.hpp"
#include "cli/demo_network.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

/// What differs between the two data sets.
struct Setup {
  NetworkShape network;
  TrainingOptions training;
  int64_t sample_size = 0;  ///< training images whose loss is differentiated
  QuadratureOptions quadrature;
};

Setup fashion_setup() {
  return {.network = {},
          .training = {.epochs = 3, .batch_size = 100, .learning_rate = 0.05},
          .sample_size = 1000,
          .quadrature = {.num_steps = 80, .num_probes = 3}};
}

Setup digits_setup() {
  return {.network = {.image_size = 8, .kernel_size = 3, .stride = 1, .channels = {6, 12}},
          .training = {.epochs = 20, .batch_size = 50, .learning_rate = 0.02},
          .sample_size = 500,
          .quadrature = {.num_steps = 60, .num_probes = 3}};
}

/// What the seed's random numbers are used for.
enum RandomPurpose : uint64_t { kInitialisation = 1, kShuffling, kSample, kStartVectors, kProbes };

struct Sample {
  at::Tensor inputs;
  at::Tensor targets;
};

Sample draw_sample(const DemoData& data, int64_t size, const RandomSource& random) {
  const at::Tensor order = random.uniform(0, data.train_images.size(0)).argsort().slice(0, 0, size);
  return {data.train_images.index_select(0, order), data.train_labels.index_select(0, order)};
}

EmpiricalRisk make_risk(Model model, const Sample& sample) {
  constexpr int64_t kBatchSize = 250;
  return {std::move(model), cross_entropy(),
          tensor_dataset({sample.inputs}, sample.targets, kBatchSize)};
}

void save(const torch::jit::Module& network, const Sample& sample,
          const std::filesystem::path& folder) {
  write_file_atomically(folder / "model.pt", serialize(network));
  write_npy(folder / "inputs.npy", sample.inputs);
  write_npy(folder / "targets.npy", sample.targets);
}

DemoSpectrum compute_spectrum(const OperatorPtr& matrix, QuadratureOptions quadrature,
                              const RandomSource& random, const Observer& observer) {
  const Stopwatch watch;
  quadrature.observer = observer;
  DemoSpectrum spectrum;
  spectrum.pairs = eigenpairs(matrix, {.count = 2 * DemoData::kNumClasses,
                                       .random = random.derive(kStartVectors),
                                       .observer = observer});
  spectrum.density = spectral_density(matrix, quadrature, random.derive(kProbes));
  spectrum.seconds = watch.seconds();
  return spectrum;
}

void make_folder(const std::filesystem::path& folder) {
  std::error_code status;
  std::filesystem::create_directories(folder, status);
  CURVATURE_CHECK(std::filesystem::is_directory(folder), FileError,
                  "--output: {} cannot be made ({}); expected a folder that is there or can be "
                  "made",
                  folder.string(), status ? status.message() : "not a folder");
}

}  // namespace

DemoResult run_demo(const DemoOptions& options, const Observer& observer) {
  const Stopwatch watch;
  at::set_num_threads(options.threads);
  const Setup setup = options.digits ? digits_setup() : fashion_setup();
  const DemoData data = options.digits ? load_digits() : load_fashion_mnist();
  make_folder(options.output);

  const RandomSource random(options.seed);
  const Sample sample = draw_sample(data, setup.sample_size, random.derive(kSample));
  const torch::jit::Module network = make_network(setup.network, random.derive(kInitialisation));
  DemoResult result{.dataset = data.name,
                    .num_classes = DemoData::kNumClasses,
                    .num_train = data.train_images.size(0),
                    .num_data = setup.sample_size,
                    .training = setup.training};
  result.records = train(network, data, make_risk(as_model(network), sample), setup.training,
                         random.derive(kShuffling), observer);
  result.train_accuracy = accuracy(network, data.train_images, data.train_labels);
  result.test_accuracy = accuracy(network, data.test_images, data.test_labels);
  result.training_seconds = watch.seconds();
  save(network, sample, options.output);

  // What was saved is looked at, so that the numbers are those of the files.
  const EmpiricalRisk risk = make_risk(load_torchscript(options.output / "model.pt"), sample);
  result.num_parameters = risk.space().size();
  result.loss = risk.loss();
  result.hessian = compute_spectrum(hessian(risk), setup.quadrature, random, observer);
  result.ggn = compute_spectrum(ggn(risk), setup.quadrature, random, observer);
  result.seconds = watch.seconds();
  return result;
}

}  // namespace curvature::cli
