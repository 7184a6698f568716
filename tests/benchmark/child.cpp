#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <memory>
#include <system_error>

#include <fmt/core.h>

#include "child.hpp"

namespace curvature::benchmark {
namespace {

constexpr const char* kError = "error";  // the key of the message that ends a failed child

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};
using File = std::unique_ptr<std::FILE, Close>;

[[noreturn]] void fail(const char* what) {
  throw std::system_error(errno, std::generic_category(), what);
}

/// Never returns: the parent's buffers and destructors are the parent's business.
[[noreturn]] void run_and_exit(const std::function<void(std::FILE*)>& work, std::FILE* sink) {
  try {
    work(sink);
  } catch (const std::exception& error) {
    const std::string what = error.what();
    send(sink, {{kError, what.substr(0, what.find('\n'))}});
  }
  _exit(EXIT_SUCCESS);
}

std::string describe(int status) {
  if (WIFSIGNALED(status)) {
    return fmt::format("child process ended by signal {}", WTERMSIG(status));
  }
  if (WEXITSTATUS(status) != EXIT_SUCCESS) {
    return fmt::format("child process ended with code {}", WEXITSTATUS(status));
  }
  return {};
}

}  // namespace

void send(std::FILE* sink, const Json& message) {
  // Error messages may quote bytes that are no UTF-8.
  fmt::print(sink, "{}\n", message.dump(-1, ' ', false, Json::error_handler_t::replace));
  std::fflush(sink);
}

std::string run_in_child(const std::function<void(std::FILE*)>& work,
                         const std::function<void(const Json&)>& receive) {
  int ends[2];
  if (pipe(ends) != 0) fail("pipe");
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child < 0) fail("fork");
  if (child == 0) {
    close(ends[0]);
    run_and_exit(work, fdopen(ends[1], "w"));
  }
  close(ends[1]);
  const File source(fdopen(ends[0], "r"));

  std::string error;
  char* line = nullptr;
  size_t capacity = 0;
  while (getline(&line, &capacity, source.get()) > 0) {
    const Json message = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (message.is_discarded()) break;  // cut off by the end of the child, of which more below
    if (message.contains(kError)) {
      error = message.at(kError);
    } else {
      receive(message);
    }
  }
  std::free(line);
  int status = 0;
  if (waitpid(child, &status, 0) != child) fail("waitpid");
  return error.empty() ? describe(status) : error;
}

}  // namespace curvature::benchmark
