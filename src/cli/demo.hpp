#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include <curvature/core/progress.hpp>
#include <curvature/spectral/density.hpp>
#include <curvature/spectral/eigenpairs.hpp>

#include "cli/demo_training.hpp"
#include "cli/report.hpp"

namespace curvature::cli {

struct DemoOptions {
  std::filesystem::path output = "curvature-demo";  ///< folder
  bool digits = false;                              ///< the built-in data, not Fashion-MNIST
  int threads = 1;  ///< the network is small: more gain little, and change the numbers' last digits
  uint64_t seed = 0;
  bool json = false;
};

/// The spectrum of one curvature matrix.
struct DemoSpectrum {
  EigenpairsResult pairs;  ///< twice as many as there are classes
  SpectralDensity density;
  double seconds = 0;
};

/// What the demo found.
struct DemoResult {
  std::string dataset;
  int64_t num_parameters = 0;
  int64_t num_classes = 0;
  int64_t num_train = 0;  ///< training images
  int64_t num_data = 0;   ///< those of them whose loss is differentiated
  TrainingOptions training = {};
  TrainingRecords records = {};
  double train_accuracy = 0;
  double test_accuracy = 0;
  double loss = 0;
  DemoSpectrum hessian = {};
  DemoSpectrum ggn = {};
  double training_seconds = 0;
  double seconds = 0;
};

/// Trains a small network, saves it (`model.pt`) with the sample of its training images that is
/// looked at (`inputs.npy`, `targets.npy`) in the folder `options.output`, and computes the spectra
/// of what was saved. @throws FileError if data are missing or a file cannot be written
DemoResult run_demo(const DemoOptions& options, const Observer& observer);

/// How far the eigenvalues of a problem with C classes that are expected to be large stand out.
struct Outliers {
  double gap_before_last = 0;  ///< eigenvalue C - 1 divided by eigenvalue C, counted from 1
  double gap_after_last = 0;   ///< eigenvalue C divided by eigenvalue C + 1
  int64_t widest_after = 0;    ///< number of eigenvalues above the widest gap
  double widest_gap = 0;       ///< its ratio
  double trace_share = 0;      ///< the C largest, as a part of the trace (estimated by the probes)
};
/// @pre eigenvalues are positive; the widest gap is looked for among those that were computed
Outliers find_outliers(const DemoSpectrum& spectrum, int64_t num_classes, int64_t num_parameters);

/// Draws `spectrum` and `training`, `.svg` and `.png` each, into `folder`.
void draw_demo(const DemoResult& result, const std::filesystem::path& folder);
Json demo_json(const DemoResult& result);
/// For people: tables, what they show in words, and what to try next with the tool, `program`.
std::string describe_demo(const DemoResult& result, const DemoOptions& options,
                          const std::string& program);

}  // namespace curvature::cli
