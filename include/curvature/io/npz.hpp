#pragma once

#include <filesystem>
#include <string>
#include <string_view>
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

}  // namespace curvature
