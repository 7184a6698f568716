#pragma once

#include <filesystem>

#include <ATen/core/Tensor.h>

namespace curvature {

/// The array in an idx file, the format of MNIST: uint8, int8, int16, int32, float32 or float64.
/// A file that begins like a gzip file is inflated. Nothing is allocated that the file could not
/// hold; a file with more or fewer bytes than it announces is refused.
/// @throws FileError if the file is missing, damaged, or not an idx file
at::Tensor read_idx(const std::filesystem::path& path);

}  // namespace curvature
