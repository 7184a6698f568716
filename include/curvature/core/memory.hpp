#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>

#include <c10/core/Device.h>

namespace curvature {

/// Bytes of memory that can still be taken on `device`, swap not counted: on the CPU what the
/// kernel reports as available, within the limit of the control group.
int64_t available_memory(const c10::Device& device);

/// The default budget for what an operator keeps between products: a quarter of what is available.
int64_t default_memory_budget(const c10::Device& device);

/// An account of bytes that several holders draw on. Thread-safe.
class MemoryBudget {
 public:
  /// @throws OptionError if `bytes` is negative
  explicit MemoryBudget(int64_t bytes);

  /// Takes `bytes` if they fit, and says whether they did.
  bool reserve(int64_t bytes) noexcept;
  /// Gives back what `reserve` took.
  void release(int64_t bytes) noexcept;
  int64_t total() const noexcept { return total_; }       ///< bytes there are
  int64_t used() const noexcept { return used_.load(); }  ///< bytes taken

 private:
  int64_t total_;
  std::atomic<int64_t> used_ = 0;
};

/// Runs `work` and returns the bytes of tensor memory that it allocated and did not free; nothing
/// if another meter is at work in this thread (LibTorch's profiler), since there is room for one.
std::optional<int64_t> measure_kept_memory(const std::function<void()>& work);

}  // namespace curvature
