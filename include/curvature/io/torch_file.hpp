#pragma once

#include <filesystem>

#include <ATen/core/Tensor.h>

namespace curvature {

/// The tensor in a `.pt` file that holds one: saved by Python's `torch.save(tensor, file)` (also a
/// parameter) or by C++ `torch::save(tensor, file)`. On the CPU, without graph, with its strides.
/// Dtypes as for safetensors. The pickle in the file is parsed, never executed.
/// @throws FileError if the file is missing or damaged, or holds something else (a `state_dict`, a
/// module, a TorchScript model), which the message names
at::Tensor read_torch_tensor(const std::filesystem::path& path);

}  // namespace curvature
