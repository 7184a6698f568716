#pragma once

#include <map>
#include <string>
#include <vector>

#include <curvature/model/model.hpp>

namespace curvature::cli {

/// All arrays of a `.npz` file, in its order, or of a `.safetensors` file, by name.
/// @throws FileError; OptionError for another kind of file
std::vector<NamedTensor> read_named_arrays(const std::string& file);

/// Writes arrays atomically. The metadata goes along in `.safetensors`; npz has no place for it.
/// @throws FileError
void write_named_arrays(const std::string& file, const std::vector<NamedTensor>& arrays,
                        const std::map<std::string, std::string>& metadata);

}  // namespace curvature::cli
