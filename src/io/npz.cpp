#include <curvature/io/npz.hpp>

#include "core/check.hpp"
#include "io/npy_format.hpp"
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

}  // namespace curvature
