#include <cstdio>
#include <cstring>
#include <filesystem>
#include <memory>
#include <sys/wait.h>
#include <unistd.h>
#include <spawn.h>

#include <curvature/io/atomic_file.hpp>

#include "cli/gnuplot.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

constexpr const char* kInstall =
    "expected gnuplot on the PATH; install the Debian package gnuplot-nox";

/// A file without a name: unlike a pipe it never blocks and never raises a signal.
class ScratchFile {
 public:
  ScratchFile() : file_(std::tmpfile(), &std::fclose) {
    CURVATURE_CHECK(file_, Error, "plot: cannot make a temporary file: {}", std::strerror(errno));
  }

  int descriptor() const { return fileno(file_.get()); }

  void write(const std::string& text) {
    const bool written = std::fwrite(text.data(), 1, text.size(), file_.get()) == text.size() &&
                         std::fflush(file_.get()) == 0;
    CURVATURE_CHECK(written, Error, "plot: cannot write a temporary file: {}",
                    std::strerror(errno));
    std::rewind(file_.get());
  }

  std::string read() {
    std::string bytes;
    char buffer[1 << 14];
    std::rewind(file_.get());
    while (const size_t count = std::fread(buffer, 1, sizeof buffer, file_.get())) {
      bytes.append(buffer, count);
    }
    return bytes;
  }

 private:
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
};

/// What gnuplot wrote to its standard output.
std::string run_gnuplot(const std::string& script) {
  ScratchFile input, output, errors;
  input.write(script);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, input.descriptor(), STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, output.descriptor(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, errors.descriptor(), STDERR_FILENO);
  // -d: the user's own settings do not change our pictures.
  char name[] = "gnuplot", defaults[] = "-d";
  char* const arguments[] = {name, defaults, nullptr};
  pid_t child = 0;
  const int failure = posix_spawnp(&child, name, &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  CURVATURE_CHECK(failure == 0, Error, "plot: gnuplot does not start ({}); {}",
                  std::strerror(failure), kInstall);

  int status = 0;
  while (waitpid(child, &status, 0) < 0) {
    CURVATURE_CHECK(errno == EINTR, Error, "plot: lost gnuplot: {}", std::strerror(errno));
  }
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    std::string reason = errors.read();
    for (char& c : reason) c = c == '\n' ? ' ' : c;
    throw Error(fmt::format("plot: gnuplot failed: {}", reason));
  }
  return output.read();
}

std::string terminal(const std::string& path, PictureSize size) {
  const std::string extension = std::filesystem::path(path).extension();
  if (extension == ".svg") {
    return fmt::format(
        "set terminal svg noenhanced size {},{} font 'Helvetica,Arial,sans-serif,14'"
        " background rgb 'white'\n",
        size.width, size.height);
  }
  CURVATURE_CHECK(extension == ".png", OptionError,
                  "plot: {}: unknown kind of picture; expected a name that ends in .svg or .png",
                  path);
  constexpr double kScale = 2;  // pixels per point, for sharp letters
  return fmt::format(
      "set terminal pngcairo noenhanced size {},{} font 'Sans,11' fontscale {} "
      "linewidth {} pointscale {} background rgb 'white'\n",
      kScale * size.width, kScale * size.height, kScale, kScale, kScale);
}

}  // namespace

void draw(const std::string& path, PictureSize size, const std::string& script) {
  const std::string picture = run_gnuplot(terminal(path, size) + script);
  CURVATURE_CHECK(!picture.empty(), Error, "plot: gnuplot drew nothing for {}", path);
  write_file_atomically(path, picture);
}

void check_gnuplot(const std::string& path) {
  run_gnuplot(terminal(path, {.width = 100, .height = 100}));
}

std::string quoted(const std::string& text) {
  std::string result = "'";
  for (const char c : text) {
    if (c == '\'') result += '\'';  // a doubled quote is a quote
    result += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return result + "'";
}

}  // namespace curvature::cli
