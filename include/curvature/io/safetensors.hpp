#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/archive.hpp>

namespace curvature {

// The safetensors format: F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL. A file is refused
// unless its tensors fill it without gaps or overlaps.

/// All tensors and the metadata of a `.safetensors` file.
/// @throws FileError if the file is missing, damaged, or holds an unsupported dtype
Archive read_safetensors(const std::filesystem::path& path);

/// One tensor of a `.safetensors` file; the others are not read.
/// @throws OptionError if there is no tensor of that name
/// @throws FileError as above; other tensors' dtypes do not matter
at::Tensor read_safetensors(const std::filesystem::path& path, std::string_view name);

/// Names of the tensors in a `.safetensors` file, in alphabetical order.
std::vector<std::string> list_safetensors(const std::filesystem::path& path);

/// Writes an archive as a `.safetensors` file, atomically; the same archive always gives the same
/// bytes. Contiguous tensors on the CPU are not copied.
/// @throws FileError if it cannot be written
/// @throws OptionError for names or metadata that are not UTF-8, or a tensor called `__metadata__`
/// @throws NotSupportedError, DtypeDeviceError for tensors that the format cannot hold
void write_safetensors(const std::filesystem::path& path, const Archive& archive);

}  // namespace curvature
