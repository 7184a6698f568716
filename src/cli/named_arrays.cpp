#include "cli/named_arrays.hpp"

#include <filesystem>

#include <curvature/io/npz.hpp>
#include <curvature/io/safetensors.hpp>

#include "core/check.hpp"

namespace curvature::cli {

std::vector<NamedTensor> read_named_arrays(const std::string& file) {
  const std::string kind = std::filesystem::path(file).extension();
  std::vector<NamedTensor> arrays;
  if (kind == ".npz") {
    for (const std::string& name : list_npz(file)) arrays.push_back({name, read_npz(file, name)});
  } else {
    CURVATURE_CHECK(kind == ".safetensors", OptionError,
                    "{}: unknown kind of named arrays; expected .npz or .safetensors, got '{}'",
                    file, kind);
    for (const auto& [name, tensor] : read_safetensors(file).tensors) {
      arrays.push_back({name, tensor});
    }
  }
  return arrays;
}

void write_named_arrays(const std::string& file, const std::vector<NamedTensor>& arrays,
                        const std::map<std::string, std::string>& metadata) {
  if (std::filesystem::path(file).extension() == ".npz") {
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    for (const auto& [name, tensor] : arrays) tensors.emplace_back(name, tensor);
    return write_npz(file, tensors);
  }
  Archive archive{.tensors = {}, .metadata = metadata};
  for (const auto& [name, tensor] : arrays) archive.tensors[name] = tensor;
  write_safetensors(file, archive);
}

}  // namespace curvature::cli
