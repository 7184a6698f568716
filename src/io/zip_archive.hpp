#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/byte_source.hpp"

struct zip;
struct zip_source;

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

/// A zip file with stored entries that is made in memory. The same entries give the same bytes.
class ZipWriter {
 public:
  ZipWriter();

  /// Adds an entry whose contents are the pieces, one after the other; they must live until
  /// `finish` returns. @throws OptionError if there is an entry of this name
  void add(const std::string& entry, const std::vector<std::string_view>& pieces);
  /// The whole file.
  std::string finish();

 private:
  struct Close {
    void operator()(zip* archive) const noexcept;
  };
  struct Free {
    void operator()(zip_source* source) const noexcept;
  };

  std::unique_ptr<zip_source, Free> buffer_;
  std::unique_ptr<zip, Close> archive_;
};

}  // namespace curvature::detail
