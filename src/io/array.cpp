#include <functional>
#include <optional>
#include <string_view>
#include <vector>

#include <curvature/io/array.hpp>
#include <curvature/io/idx.hpp>
#include <curvature/io/npy.hpp>
#include <curvature/io/npz.hpp>
#include <curvature/io/safetensors.hpp>
#include <curvature/io/torch_file.hpp>

#include "core/check.hpp"
#include "io/text.hpp"

namespace curvature {
namespace {

using std::filesystem::path;

struct FileAndKey {
  path file;
  std::optional<std::string> key;
};

bool exists(const std::string& name) {
  std::error_code error;
  return std::filesystem::exists(name, error);
}

/// Splits at the first colon that has an existing file before it.
FileAndKey split(const std::string& name) {
  if (exists(name)) return {name, std::nullopt};
  for (size_t colon = name.find(':'); colon != std::string::npos;
       colon = name.find(':', colon + 1)) {
    if (exists(name.substr(0, colon))) return {name.substr(0, colon), name.substr(colon + 1)};
  }
  throw FileError(fmt::format("{}: no such file", detail::printable(name)));
}

bool is_idx(const path& file) {
  std::string name = file.filename();
  if (name.ends_with(".gz")) name.resize(name.size() - 3);
  return name.ends_with(".idx") || name.ends_with("-ubyte");
}

/// The only one of a file's keys.
std::string only_key(const path& file, const std::vector<std::string>& keys) {
  CURVATURE_CHECK(!keys.empty(), FileError, "{}: holds no array", detail::printable(file.native()));
  CURVATURE_CHECK(keys.size() == 1, OptionError, "{}: holds {} arrays; write {}:KEY with one of {}",
                  detail::printable(file.native()), keys.size(), detail::printable(file.native()),
                  detail::printable_list(keys));
  return keys.front();
}

at::Tensor read_single(const FileAndKey& source, at::Tensor (*read)(const path&)) {
  CURVATURE_CHECK(!source.key, OptionError, "{}: holds one array; it takes no key, got '{}'",
                  detail::printable(source.file.native()), detail::printable(*source.key));
  return read(source.file);
}

}  // namespace

at::Tensor read_array(const std::string& name) {
  const FileAndKey source = split(name);
  const path& file = source.file;
  const path extension = file.extension();
  if (extension == ".npz") {
    return read_npz(file, source.key ? *source.key : only_key(file, list_npz(file)));
  }
  if (extension == ".safetensors") {
    return read_safetensors(file,
                            source.key ? *source.key : only_key(file, list_safetensors(file)));
  }
  if (extension == ".npy") return read_single(source, read_npy);
  if (extension == ".pt") return read_single(source, read_torch_tensor);
  if (is_idx(file)) return read_single(source, read_idx);
  throw OptionError(fmt::format(
      "{}: unknown kind of array; expected .npy, .npz, .safetensors, .pt, .idx or -ubyte (.gz)",
      detail::printable(file.native())));
}

void write_array(const path& file, const at::Tensor& tensor,
                 const std::map<std::string, std::string>& metadata) {
  const path extension = file.extension();
  if (extension == ".npy") return write_npy(file, tensor);
  CURVATURE_CHECK(extension == ".safetensors", OptionError,
                  "{}: cannot write this kind of file; expected .npy or .safetensors",
                  detail::printable(file.native()));
  write_safetensors(file, {.tensors = {{"data", tensor}}, .metadata = metadata});
}

}  // namespace curvature
