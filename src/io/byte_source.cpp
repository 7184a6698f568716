#include "io/byte_source.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <zlib.h>

#include "core/check.hpp"
#include "io/text.hpp"

namespace curvature::detail {
namespace {

class GzipSource final : public ByteSource {
 public:
  explicit GzipSource(const std::filesystem::path& path)
      : ByteSource(printable(path.native())), file_(path) {
    constexpr int kGzipOnly = 16 + MAX_WBITS;
    CURVATURE_CHECK(inflateInit2(&stream_, kGzipOnly) == Z_OK, FileError,
                    "{}: zlib cannot be started", name());
  }
  ~GzipSource() override { inflateEnd(&stream_); }

  uint64_t remaining() const noexcept override {
    return file_.size() * kLargestDeflateRatio - produced_;
  }

 private:
  size_t read_some(void* out, size_t size) override {
    stream_.next_out = static_cast<Bytef*>(out);
    stream_.avail_out = static_cast<uInt>(size);
    while (stream_.avail_out == size && !at_end()) inflate_once();
    const size_t count = size - stream_.avail_out;
    produced_ += count;
    return count;
  }

  bool at_end() const { return member_ended_ && stream_.avail_in == 0 && file_.remaining() == 0; }

  void inflate_once() {
    if (stream_.avail_in == 0) refill();
    // A gzip file may consist of several members, one after the other.
    if (member_ended_) inflateReset(&stream_);
    const int status = inflate(&stream_, Z_NO_FLUSH);
    member_ended_ = status == Z_STREAM_END;
    CURVATURE_CHECK(status == Z_OK || member_ended_, FileError,
                    "{}: not a sound gzip file: {}; it may be damaged", name(),
                    stream_.msg != nullptr ? stream_.msg : "inflating failed");
  }

  void refill() {
    const uint64_t size = std::min<uint64_t>(input_.size(), file_.remaining());
    CURVATURE_CHECK(size > 0, FileError, "{}: truncated; the gzip stream does not end", name());
    file_.read(input_.data(), size);
    stream_.next_in = input_.data();
    stream_.avail_in = static_cast<uInt>(size);
  }

  FileSource file_;
  std::array<Bytef, 1 << 16> input_;
  z_stream stream_ = {};
  uint64_t produced_ = 0;
  bool member_ended_ = false;
};

}  // namespace

void ByteSource::read(void* out, uint64_t size) {
  constexpr uint64_t kPiece = uint64_t{1} << 30;
  auto* next = static_cast<unsigned char*>(out);
  for (uint64_t done = 0; done < size;) {
    const size_t count = read_some(next + done, std::min(size - done, kPiece));
    CURVATURE_CHECK(count > 0, FileError, "{}: truncated; expected {} more bytes, got {}", name_,
                    size, done);
    done += count;
  }
}

void ByteSource::expect_end() {
  char extra;
  CURVATURE_CHECK(read_some(&extra, 1) == 0, FileError,
                  "{}: there are bytes after the end of the data; the file may be damaged", name_);
}

FileSource::FileSource(const std::filesystem::path& path) : ByteSource(printable(path.native())) {
  // O_NONBLOCK: opening a pipe without a writer must not wait.
  descriptor_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  CURVATURE_CHECK(descriptor_ >= 0, FileError, "{}", open_failure(path, errno));
  struct stat facts = {};
  if (::fstat(descriptor_, &facts) == 0 && S_ISREG(facts.st_mode)) {
    size_ = static_cast<uint64_t>(facts.st_size);
    return;
  }
  ::close(descriptor_);
  throw FileError(fmt::format("{}: is {}; expected a regular file", name(),
                              S_ISDIR(facts.st_mode) ? "a directory" : "not a regular file"));
}

FileSource::~FileSource() { ::close(descriptor_); }

size_t FileSource::read_some(void* out, size_t size) {
  ssize_t count;
  do {
    count = ::pread(descriptor_, out, size, static_cast<off_t>(position_));
  } while (count < 0 && errno == EINTR);
  CURVATURE_CHECK(count >= 0, FileError, "{}: cannot be read: {}", name(), system_message(errno));
  // A file that grew since it was opened has the size it had then.
  const auto within = std::min<uint64_t>(static_cast<uint64_t>(count), remaining());
  position_ += within;
  return within;
}

std::unique_ptr<ByteSource> open_gzip(const std::filesystem::path& path) {
  return std::make_unique<GzipSource>(path);
}

}  // namespace curvature::detail
