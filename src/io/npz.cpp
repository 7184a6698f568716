#include <deque>

#include <curvature/io/atomic_file.hpp>
#include <curvature/io/npz.hpp>

#include "core/check.hpp"
#include "io/npy_format.hpp"
#include "io/tensor_bytes.hpp"
#include "io/text.hpp"
#include "io/zip_archive.hpp"

namespace curvature {
namespace {

constexpr std::string_view kSuffix = ".npy";

std::vector<std::string> array_names(const detail::ZipArchive& archive) {
  std::vector<std::string> names;
  for (const std::string& entry : archive.entries()) {
    if (entry.ends_with(kSuffix)) names.push_back(entry.substr(0, entry.size() - kSuffix.size()));
  }
  return names;
}

}  // namespace

std::vector<std::string> list_npz(const std::filesystem::path& path) {
  return array_names(detail::ZipArchive(path));
}

at::Tensor read_npz(const std::filesystem::path& path, std::string_view name) {
  const detail::ZipArchive archive(path);
  const auto entry = archive.find(std::string(name) + std::string(kSuffix));
  CURVATURE_CHECK(entry.has_value(), OptionError, "{}: no array '{}'; it has {}", archive.name(),
                  detail::printable(name), detail::printable_list(array_names(archive)));
  return detail::read_npy(*archive.open(*entry));
}

void write_npz(const std::filesystem::path& path,
               const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  CURVATURE_CHECK(!tensors.empty(), OptionError, "{}: no tensors to write; expected at least one",
                  detail::printable(path.native()));
  std::deque<std::pair<std::string, at::Tensor>> parts;  // stay where they are
  detail::ZipWriter archive;
  for (const auto& [name, tensor] : tensors) {
    const at::Tensor data = detail::as_written("write_npz", tensor);
    const auto& [header, kept] = parts.emplace_back(detail::npy_header(data), data);
    const auto* bytes = static_cast<const char*>(kept.const_data_ptr());
    archive.add(name + std::string(kSuffix), {header, {bytes, kept.nbytes()}});
  }
  write_file_atomically(path, archive.finish());
}

}  // namespace curvature
