#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

namespace curvature::detail {

/// Bytes that are read front to back: a file, or what a compressed file holds.
class ByteSource {
 public:
  explicit ByteSource(std::string name) : name_(std::move(name)) {}
  virtual ~ByteSource() = default;
  ByteSource(const ByteSource&) = delete;
  ByteSource& operator=(const ByteSource&) = delete;

  /// The file (and entry), for messages.
  const std::string& name() const noexcept { return name_; }
  /// No more than this many bytes can still come; exact unless the source is compressed.
  virtual uint64_t remaining() const noexcept = 0;
  /// Reads exactly `size` bytes. @throws FileError if there are fewer
  void read(void* out, uint64_t size);
  /// @throws FileError if there are bytes left, or what was read fails its checksum
  void expect_end();

 protected:
  /// Reads up to `size` bytes and returns how many; 0 at the end only.
  virtual size_t read_some(void* out, size_t size) = 0;

 private:
  std::string name_;
};

/// A regular file; anything else (a folder, a pipe) is refused without waiting for it.
class FileSource final : public ByteSource {
 public:
  explicit FileSource(const std::filesystem::path& path);
  ~FileSource() override;

  uint64_t remaining() const noexcept override { return size_ - position_; }
  uint64_t size() const noexcept { return size_; }
  uint64_t position() const noexcept { return position_; }
  int descriptor() const noexcept { return descriptor_; }
  /// The next read starts at `position` <= size().
  void seek(uint64_t position) noexcept { position_ = position; }

 private:
  size_t read_some(void* out, size_t size) override;

  int descriptor_;
  uint64_t size_ = 0;
  uint64_t position_ = 0;
};

/// No DEFLATE stream expands more than this: 258 bytes from two bits.
constexpr uint64_t kLargestDeflateRatio = 1032;

/// The contents of a gzip file, inflated piece by piece.
std::unique_ptr<ByteSource> open_gzip(const std::filesystem::path& path);

}  // namespace curvature::detail
