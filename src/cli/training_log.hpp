#pragma once

#include <cstdint>
#include <string>

#include "cli/report.hpp"

namespace curvature::cli {

/// A file with a JSON object a line for each step of a training. A line is there as soon as
/// `write` returns.
class TrainingLog {
 public:
  /// Opens the log of a run whose first `num_steps` steps are done: their lines are kept and what
  /// comes after is cut off. A missing file is begun; no file name: nothing is written.
  /// @throws FileError if it cannot be written; DataError if its lines are not those of the steps
  TrainingLog(const std::string& file, int64_t num_steps);
  ~TrainingLog();
  TrainingLog(const TrainingLog&) = delete;
  TrainingLog& operator=(const TrainingLog&) = delete;

  void write(const Json& step);
  /// Returns when the lines are on the disk.
  void synchronize();

 private:
  void check(bool success) const;

  std::string file_;
  int descriptor_ = -1;
};

}  // namespace curvature::cli
