#include <algorithm>
#include <atomic>
#include <cerrno>
#include <fcntl.h>
#include <string>
#include <sys/stat.h>
#include <unistd.h>
#include <utility>

#include <curvature/io/atomic_file.hpp>

#include "core/check.hpp"
#include "io/text.hpp"

namespace curvature {
namespace {

/// An open file descriptor.
class Descriptor {
 public:
  explicit Descriptor(int value = -1) noexcept : value_(value) {}
  ~Descriptor() { close(); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;

  int get() const noexcept { return value_; }
  void reset(int value) noexcept {
    close();
    value_ = value;
  }
  /// Whether the system reports that everything went well.
  bool close() noexcept {
    const int value = std::exchange(value_, -1);
    return value < 0 || ::close(value) == 0;
  }

 private:
  int value_;
};

/// A file under a temporary name in the folder of its destination; removed unless it is moved
/// there.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::filesystem::path& destination)
      : who_(detail::printable(destination.native())),
        name_(destination.filename()),
        folder_(open_folder(destination)) {
    do {
      temporary_name_ = fmt::format(".curvature-{}-{}.tmp", ::getpid(), next_number());
      file_.reset(::openat(folder_.get(), temporary_name_.c_str(),
                           O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
    } while (file_.get() < 0 && errno == EEXIST);
    check(file_.get() >= 0);
  }
  ~TemporaryFile() {
    if (!moved_) ::unlinkat(folder_.get(), temporary_name_.c_str(), 0);
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  /// A file that others may not read stays so.
  void take_mode_of_replaced() {
    struct stat replaced {};
    if (::fstatat(folder_.get(), name_.c_str(), &replaced, 0) != 0) return;
    check(::fchmod(file_.get(), replaced.st_mode & 0777) == 0);
  }

  void write(const void* data, size_t size) {
    constexpr size_t kPiece = size_t{1} << 30;  // one call writes less than 2 GiB
    const auto* next = static_cast<const char*>(data);
    while (size > 0) {
      const ssize_t count = ::write(file_.get(), next, std::min(size, kPiece));
      if (count < 0 && errno == EINTR) continue;
      check(count > 0);
      next += count;
      size -= static_cast<size_t>(count);
    }
  }

  void move_to_destination() {
    check(::fsync(file_.get()) == 0);
    check(file_.close());
    check(::renameat(folder_.get(), temporary_name_.c_str(), folder_.get(), name_.c_str()) == 0);
    moved_ = true;
    // Some file systems know no synchronisation of folders.
    check(::fsync(folder_.get()) == 0 || errno == EINVAL || errno == ENOTSUP);
  }

 private:
  static int next_number() {
    static std::atomic<int> number = 0;
    return ++number;
  }

  static int open_folder(const std::filesystem::path& destination) {
    const auto folder = destination.has_parent_path() ? destination.parent_path() : ".";
    const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CURVATURE_CHECK(descriptor >= 0, FileError, "{}: cannot be written: opening its folder: {}",
                    detail::printable(destination.native()), detail::system_message(errno));
    return descriptor;
  }

  void check(bool success) const {
    CURVATURE_CHECK(success, FileError, "{}: cannot be written: {}", who_,
                    detail::system_message(errno));
  }

  std::string who_;
  std::filesystem::path name_;
  Descriptor folder_;
  std::string temporary_name_;
  Descriptor file_;
  bool moved_ = false;
};

/// Where the file goes: what a symbolic link points to, else `path` itself.
std::filesystem::path destination_of(const std::filesystem::path& path) {
  const std::string who = detail::printable(path.native());
  CURVATURE_CHECK(path.has_filename(), FileError, "{}: cannot be written: no file is named", who);
  std::error_code error;
  const auto status = std::filesystem::status(path, error);
  CURVATURE_CHECK(status.type() != std::filesystem::file_type::directory, FileError,
                  "{}: cannot be written: it is a directory", who);
  CURVATURE_CHECK(!std::filesystem::exists(status) || std::filesystem::is_regular_file(status),
                  FileError, "{}: cannot be written: it is there and not a regular file", who);
  if (!std::filesystem::is_symlink(path, error)) return path;
  const auto target = std::filesystem::weakly_canonical(path, error);
  CURVATURE_CHECK(!error, FileError, "{}: cannot be written: {}", who, error.message());
  return target;
}

}  // namespace

void write_file_atomically(const std::filesystem::path& path,
                           const std::function<void(const ByteSink& sink)>& write) {
  TemporaryFile file(destination_of(path));
  file.take_mode_of_replaced();
  write([&file](const void* data, size_t size) { file.write(data, size); });
  file.move_to_destination();
}

void write_file_atomically(const std::filesystem::path& path, std::string_view bytes) {
  write_file_atomically(path, [bytes](const ByteSink& sink) { sink(bytes.data(), bytes.size()); });
}

}  // namespace curvature
