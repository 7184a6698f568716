#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>

namespace curvature {

/// Names of the arrays in a `.npz` file (without `.npy`), in the order of the archive.
/// @throws FileError if the file is missing or not a sound zip archive
std::vector<std::string> list_npz(const std::filesystem::path& path);

/// One array of a `.npz` file, written by `numpy.savez` or `numpy.savez_compressed`; dtypes as for
/// `read_npy`. Nothing is allocated that the archive could not hold.
/// @throws OptionError if there is no array of that name
/// @throws FileError if the file or the array in it is missing, damaged, or not supported
at::Tensor read_npz(const std::filesystem::path& path, std::string_view name);

/// Writes tensors as a `.npz` file that `numpy.load` reads, not compressed, in this order and
/// atomically; the same tensors always give the same bytes. The file is made in memory first.
/// @throws FileError if it cannot be written
/// @throws OptionError if two tensors have the same name, or there is none
/// @throws DtypeDeviceError, NotSupportedError as `write_npy`
void write_npz(const std::filesystem::path& path,
               const std::vector<std::pair<std::string, at::Tensor>>& tensors);

}  // namespace curvature
