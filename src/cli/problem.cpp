#include "cli/problem.hpp"

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>

#include <ATen/Parallel.h>

#include <curvature/core/memory.hpp>
#include <curvature/io/array.hpp>
#include <curvature/io/npy.hpp>
#include <curvature/model/torchscript.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"

namespace curvature::cli {
namespace {

using LossFactory = std::function<LossPtr(const ProblemOptions&)>;

const std::map<std::string, LossFactory>& losses() {
  static const std::map<std::string, LossFactory> table = {
      {"cross-entropy",
       [](const ProblemOptions& options) {
         return cross_entropy(
             {.class_axis = options.class_axis, .ignore_index = options.ignore_index});
       }},
      {"mse",
       [](const ProblemOptions& options) {
         return mean_squared_error({.class_axis = options.class_axis});
       }},
      {"bce-with-logits",
       [](const ProblemOptions& options) {
         return binary_cross_entropy_with_logits({.class_axis = options.class_axis});
       }},
  };
  return table;
}

std::optional<at::ScalarType> dtype_of(const ProblemOptions& options) {
  if (options.dtype.empty()) return std::nullopt;
  return options.dtype == "float32" ? at::kFloat : at::kDouble;
}

at::Tensor cast_real(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.is_floating_point() ? tensor.to(dtype) : tensor;
}

/// `data` with its real numbers in another dtype, cast batch by batch.
DatasetPtr cast_dataset(DatasetPtr data, at::ScalarType dtype) {
  const int64_t num_batches = data->num_batches();
  return function_dataset(num_batches, [data = std::move(data), dtype](int64_t index) {
    Batch batch = data->batch(index);
    for (at::Tensor& input : batch.inputs) input = cast_real(input, dtype);
    batch.targets = cast_real(batch.targets, dtype);
    return batch;
  });
}

Space selected_space(const Model& model, const std::vector<std::string>& patterns) {
  if (!patterns.empty()) match_parameters(model, patterns);  // throws for a pattern without match
  std::vector<std::pair<std::string, Shape>> layout;
  for (const auto& [name, tensor] : model.parameters()) {
    if (tensor.requires_grad()) layout.emplace_back(name, tensor.sizes().vec());
  }
  CURVATURE_CHECK(!layout.empty(), ModelError,
                  "{}: no parameter requires gradients; expected at least one, or a choice by "
                  "--parameters",
                  model.description());
  return Space(std::move(layout));
}

/// What to add to a model's complaint when real inputs have another dtype than its parameters.
std::string dtype_hint(const Problem& problem) {
  const at::ScalarType dtype = problem.model.parameters().front().tensor.scalar_type();
  const auto differs = [dtype](const at::Tensor& input) {
    return input.is_floating_point() && input.scalar_type() != dtype;
  };
  const auto found = std::find_if(problem.inputs.begin(), problem.inputs.end(), differs);
  if (found == problem.inputs.end()) return {};
  return fmt::format("; the model is {} and the inputs are {}: --dtype casts both",
                     c10::toString(dtype), c10::toString(found->scalar_type()));
}

}  // namespace

std::vector<std::string> loss_names() {
  std::vector<std::string> names;
  for (const auto& [name, factory] : losses()) names.push_back(name);
  return names;
}

Problem load_problem(const ProblemOptions& options) {
  CURVATURE_CHECK(!options.ignore_index || options.loss == "cross-entropy", OptionError,
                  "--ignore-index belongs to cross-entropy; expected --loss cross-entropy, got {}",
                  options.loss);
  if (options.threads) at::set_num_threads(*options.threads);
  Model model = load_torchscript(options.model, {.parameters = options.parameters,
                                                 .dtype = dtype_of(options),
                                                 .device = at::Device(options.device)});
  Space space = selected_space(model, options.parameters);
  TensorList inputs;
  for (const std::string& name : options.inputs) inputs.push_back(read_examples(name));
  return {std::move(model), std::move(space), std::move(inputs), read_examples(options.targets)};
}

DatasetPtr make_data(TensorList inputs, at::Tensor targets, const ProblemOptions& options) {
  DatasetPtr data = tensor_dataset(std::move(inputs), std::move(targets), options.batch_size);
  if (const auto dtype = dtype_of(options)) data = cast_dataset(std::move(data), *dtype);
  return data;
}

EmpiricalRisk make_risk(const Problem& problem, const ProblemOptions& options,
                        double weight_decay) {
  DatasetPtr data = make_data(problem.inputs, problem.targets, options);
  const Reduction reduction = options.reduction == "sum" ? Reduction::kSum : Reduction::kMean;
  try {
    return EmpiricalRisk(problem.model, losses().at(options.loss)(options), std::move(data),
                         {.reduction = reduction, .weight_decay = weight_decay});
  } catch (const ModelError& error) {
    const std::string hint = options.dtype.empty() ? dtype_hint(problem) : std::string();
    throw ModelError(error.what() + hint);
  }
}

at::Tensor read_examples(const std::string& name) {
  constexpr int64_t kPartOfMemory = 4;
  std::error_code status;
  if (std::filesystem::path(name).extension() == ".npy") {
    const auto size = std::filesystem::file_size(name, status);
    const auto limit = static_cast<uintmax_t>(available_memory(at::kCPU) / kPartOfMemory);
    if (!status && size > limit) return map_npy(name);
  }
  return read_array(name);
}

int64_t columns_of(const at::Tensor& vectors) { return vectors.dim() == 2 ? vectors.size(1) : 1; }

at::Tensor read_vectors(const std::string& name, const Problem& problem) {
  const at::Tensor vectors = read_array(name);
  const int64_t size = problem.space.size();
  CURVATURE_CHECK((vectors.dim() == 1 || vectors.dim() == 2) && vectors.size(0) == size, ShapeError,
                  "{}: not vectors of parameter space; expected [{}] or [{}, K], got {}", name,
                  size, size, detail::to_string(vectors.sizes()));
  CURVATURE_CHECK(vectors.is_floating_point(), DataError,
                  "{}: not vectors of real numbers; expected float32 or float64, got {}", name,
                  c10::toString(vectors.scalar_type()));
  const at::Tensor& parameter = problem.model.parameters().front().tensor;
  const at::Tensor cast = vectors.to(parameter.device(), parameter.scalar_type());
  CURVATURE_CHECK(detail::is_finite(cast), DataError,
                  "{}: vectors must be finite; expected {} numbers, got NaN or infinity", name,
                  c10::toString(parameter.scalar_type()));
  return cast;
}

}  // namespace curvature::cli
