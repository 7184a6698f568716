#pragma once

#include <filesystem>
#include <map>
#include <string>

#include <ATen/core/Tensor.h>

namespace curvature {

/// The array that `name` means: `FILE`, or `FILE:KEY` for one of several in a `.npz` or
/// `.safetensors` file; the key may be left out if there is only one. The extension says what the
/// file is: `.npy`, `.npz`, `.safetensors`, `.pt`, or idx (`.idx`, `-ubyte`, each also with `.gz`).
/// A colon that is part of an existing file's name is no separator.
/// @throws FileError if the file is missing, damaged or not supported
/// @throws OptionError if the key is needed and absent, unknown, or the file takes none; the
/// message lists the keys. Also for an unknown extension.
at::Tensor read_array(const std::string& name);

/// Writes a tensor atomically, as `.npy`, or as `.safetensors` where it is called `data` and the
/// metadata goes along (npy has no place for it).
/// @throws OptionError for another extension
/// @throws FileError, NotSupportedError, DtypeDeviceError as `write_npy` and `write_safetensors`
void write_array(const std::filesystem::path& path, const at::Tensor& tensor,
                 const std::map<std::string, std::string>& metadata = {});

}  // namespace curvature
