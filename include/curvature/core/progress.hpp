#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

namespace curvature {

/// Where a long computation stands.
struct Progress {
  std::string_view task;  ///< what is being done, for people: "Lanczos steps"
  int64_t done = 0;       ///< steps behind us
  int64_t total = 0;      ///< steps in all; 0 if unknown
};

/// Called from the computing thread, often; empty means nobody watches. An exception thrown by an
/// observer cancels the computation and passes through to its caller; nothing is left changed.
using Observer = std::function<void(const Progress&)>;

}  // namespace curvature
