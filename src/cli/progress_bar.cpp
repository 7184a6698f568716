#include "cli/progress_bar.hpp"

#include <algorithm>
#include <iostream>
#include <sys/ioctl.h>
#include <unistd.h>

#include "core/check.hpp"

namespace curvature::cli {
namespace {

using std::chrono::duration;

constexpr duration<double> kSilence(2);     // short jobs need no bar
constexpr duration<double> kInterval(0.1);  // between two drawings
constexpr int kSmallestBar = 4;

int terminal_width() {
  winsize size{};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

std::string clock_time(double seconds) {
  const auto whole = static_cast<int64_t>(seconds + 0.5);
  const int64_t hours = whole / 3600, minutes = whole / 60 % 60;
  return hours > 0 ? fmt::format("{}:{:02}:{:02}", hours, minutes, whole % 60)
                   : fmt::format("{}:{:02}", minutes, whole % 60);
}

}  // namespace

std::string render_progress(const Progress& progress, double seconds, int width) {
  if (progress.total <= 0) {
    return fmt::format("{}: {}", progress.task, progress.done)
        .substr(0, static_cast<size_t>(width));
  }
  const double part =
      std::clamp(static_cast<double>(progress.done) / static_cast<double>(progress.total), 0., 1.);
  const std::string left = part > 0 ? clock_time(seconds * (1 - part) / part) + " left" : "";
  const std::string before = fmt::format("{} [", progress.task);
  const std::string after =
      fmt::format("] {:3.0f} %{}{}", 100 * part, left.empty() ? "" : ", ", left);
  const int room = std::max(width - static_cast<int>(before.size() + after.size()), kSmallestBar);
  const int filled = static_cast<int>(part * room);
  std::string bar(static_cast<size_t>(filled), '=');
  if (filled < room) bar += '>';
  bar.resize(static_cast<size_t>(room), ' ');
  return (before + bar + after).substr(0, static_cast<size_t>(width));
}

ProgressBar::ProgressBar() : is_terminal_(isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() {
  if (is_drawn_) std::cerr << "\r\033[K" << std::flush;
}

Observer ProgressBar::observer() {
  if (!is_terminal_) return {};
  return [this](const Progress& progress) { show(progress); };
}

void ProgressBar::show(const Progress& progress) {
  const Clock::time_point now = Clock::now();
  if (progress.task != task_ || progress.done < done_) {
    task_ = progress.task;
    task_begin_ = now;
  }
  done_ = progress.done;
  if (now - begin_ < kSilence || now - last_drawn_ < kInterval) return;
  last_drawn_ = now;
  is_drawn_ = true;
  // The last column stays free: some terminals wrap when it is written.
  const std::string line =
      render_progress(progress, duration<double>(now - task_begin_).count(), terminal_width() - 1);
  std::cerr << '\r' << line << "\033[K" << std::flush;
}

}  // namespace curvature::cli
