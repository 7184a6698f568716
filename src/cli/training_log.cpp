#include "cli/training_log.hpp"

#include <cerrno>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <unistd.h>

#include "core/check.hpp"

namespace curvature::cli {
namespace {

/// Length of the first `num_steps` lines, which must be those of steps 1, 2, ...
int64_t length_of(const std::string& file, int64_t num_steps) {
  std::ifstream stream(file, std::ios::binary);
  std::string line;
  int64_t length = 0;
  for (int64_t step = 1; step <= num_steps; ++step) {
    const bool whole = std::getline(stream, line) && !stream.eof();
    const Json record = Json::parse(whole ? line : std::string(), nullptr, /*exceptions=*/false);
    const bool is_step = record.is_object() && record.contains("step") && record["step"] == step;
    CURVATURE_CHECK(is_step, DataError,
                    "{}: not the log of the run that is resumed; expected lines of steps 1 to {}, "
                    "got another one for step {}; name another file, or the run's own",
                    file, num_steps, step);
    length += static_cast<int64_t>(line.size()) + 1;
  }
  return length;
}

}  // namespace

TrainingLog::TrainingLog(const std::string& file, int64_t num_steps) : file_(file) {
  if (file.empty()) return;
  std::error_code status;
  const bool exists = std::filesystem::exists(file, status);
  const int64_t length = exists && num_steps > 0 ? length_of(file, num_steps) : 0;
  descriptor_ = ::open(file.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
  check(descriptor_ >= 0);
  check(::ftruncate(descriptor_, length) == 0);
}

TrainingLog::~TrainingLog() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void TrainingLog::write(const Json& step) {
  if (descriptor_ < 0) return;
  const std::string line = step.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  size_t written = 0;
  while (written < line.size()) {
    const ssize_t count = ::write(descriptor_, line.data() + written, line.size() - written);
    if (count < 0 && errno == EINTR) continue;
    check(count > 0);
    written += static_cast<size_t>(count);
  }
}

void TrainingLog::synchronize() {
  // Pipes and some file systems know no synchronisation.
  if (descriptor_ >= 0) check(::fsync(descriptor_) == 0 || errno == EINVAL || errno == ENOTSUP);
}

void TrainingLog::check(bool success) const {
  CURVATURE_CHECK(success, FileError, "{}: cannot be written: {}", file_, std::strerror(errno));
}

}  // namespace curvature::cli
