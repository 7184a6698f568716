#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/byte_source.hpp"

struct zip;

namespace curvature::detail {

/// A zip file, opened for reading. Sizes that the archive claims are checked when an entry is
/// opened.
class ZipArchive {
 public:
  /// @throws FileError if it is not a zip file, or two entries have the same name
  explicit ZipArchive(const std::filesystem::path& path);

  const std::string& name() const noexcept { return name_; }
  /// Names of all entries in the order of the archive.
  const std::vector<std::string>& entries() const noexcept { return entries_; }
  std::optional<size_t> find(std::string_view entry) const;
  /// The contents of an entry, inflated piece by piece; must not outlive the archive.
  /// @throws FileError if it is encrypted, or stored in another way than numpy and torch do
  std::unique_ptr<ByteSource> open(size_t entry) const;

 private:
  struct Close {
    void operator()(zip* archive) const noexcept;
  };

  std::string name_;
  std::unique_ptr<zip, Close> archive_;
  std::vector<std::string> entries_;
};

}  // namespace curvature::detail
