#pragma once

#include <chrono>
#include <string>

#include <curvature/core/progress.hpp>

namespace curvature::cli {

/// One line of `width` characters: `Lanczos steps [=====>     ] 42 %, 0:13 left`; without a total
/// `Lanczos steps: 17`. `seconds` is the time since the task began.
std::string render_progress(const Progress& progress, double seconds, int width);

/// Draws the progress of a job on standard error if that is a terminal and the job takes longer
/// than two seconds; erased at the end. Not thread-safe.
class ProgressBar {
 public:
  ProgressBar();
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  /// Empty if there is no terminal; valid as long as the bar lives.
  Observer observer();

 private:
  using Clock = std::chrono::steady_clock;

  void show(const Progress& progress);

  bool is_terminal_;
  bool is_drawn_ = false;
  std::string task_;
  int64_t done_ = 0;
  Clock::time_point begin_ = Clock::now();
  Clock::time_point task_begin_ = begin_;
  Clock::time_point last_drawn_ = begin_;
};

}  // namespace curvature::cli
