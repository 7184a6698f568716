#pragma once

#include <string>
#include <vector>

#include <curvature/core/space.hpp>
#include <curvature/model/empirical_risk.hpp>
#include <curvature/model/model.hpp>

#include "cli/options.hpp"

namespace curvature::cli {

/// Names of the losses that `--loss` knows.
std::vector<std::string> loss_names();

/// The model and data that options name: read, not run.
struct Problem {
  Model model;
  Space space;  ///< the parameters to differentiate, in the model's order
  TensorList inputs;
  at::Tensor targets;

  int64_t num_examples() const { return inputs.front().dim() > 0 ? inputs.front().size(0) : 0; }
};

/// Sets LibTorch's threads and reads the files.
/// @throws FileError, ModelError, DataError, OptionError
Problem load_problem(const ProblemOptions& options);

/// Examples in batches of `--batch-size`, in the dtype that the options choose.
/// @throws DataError, OptionError
DatasetPtr make_data(TensorList inputs, at::Tensor targets, const ProblemOptions& options);

/// Reads an array; a large `.npy` file is mapped instead, so that data may exceed the memory.
/// @throws FileError, OptionError
at::Tensor read_examples(const std::string& name);

/// The risk of a problem; runs the model on a few examples and checks the data.
/// @throws ModelError, DataError, OptionError
EmpiricalRisk make_risk(const Problem& problem, const ProblemOptions& options,
                        double weight_decay = 0);

/// Number of vectors in `[D]` or `[D, K]`.
int64_t columns_of(const at::Tensor& vectors);

/// Vectors of parameter space `[D]` or `[D, K]` from a file, in the model's dtype, on its device.
/// @throws FileError, ShapeError, DataError
at::Tensor read_vectors(const std::string& name, const Problem& problem);

}  // namespace curvature::cli
