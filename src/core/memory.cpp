#include <algorithm>
#include <fstream>
#include <limits>
#include <memory>
#include <string>

#include <c10/core/Allocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/ThreadLocalDebugInfo.h>

#include <curvature/core/memory.hpp>

#include "core/check.hpp"

namespace curvature {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

/// The first number in a file such as memory.max; `fallback` where there is none ("max").
int64_t read_number(const char* path, int64_t fallback) {
  std::ifstream file(path);
  int64_t value = 0;
  return file >> value ? value : fallback;
}

int64_t available_host_memory() {
  int64_t available = kUnlimited;
  std::ifstream file("/proc/meminfo");
  for (std::string key, line; file >> key && std::getline(file, line);) {
    if (key == "MemAvailable:") available = std::stoll(line) * 1024;
  }
  const int64_t limit = read_number("/sys/fs/cgroup/memory.max", kUnlimited);
  const int64_t used = read_number("/sys/fs/cgroup/memory.current", 0);
  return std::min(available, limit == kUnlimited ? limit : std::max<int64_t>(limit - used, 0));
}

/// Counts what the allocators report while it is installed as debug information of a thread;
/// LibTorch's backward threads inherit it.
class AllocationMeter final : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void*, int64_t bytes, size_t, size_t, c10::Device) override {
    kept_.fetch_add(bytes, std::memory_order_relaxed);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t kept() const noexcept { return kept_.load(); }

 private:
  std::atomic<int64_t> kept_ = 0;
};

}  // namespace

int64_t available_memory(const c10::Device& device) {
  if (device.is_cpu()) return available_host_memory();
  const auto [free, total] = at::getDeviceAllocator(device.type())
                                 ->getMemoryInfo(std::max<c10::DeviceIndex>(device.index(), 0));
  return static_cast<int64_t>(std::min(free, total));
}

int64_t default_memory_budget(const c10::Device& device) { return available_memory(device) / 4; }

MemoryBudget::MemoryBudget(int64_t bytes) : total_(bytes) {
  CURVATURE_CHECK(bytes >= 0, OptionError, "MemoryBudget: bytes must not be negative; got {}",
                  bytes);
}

bool MemoryBudget::reserve(int64_t bytes) noexcept {
  int64_t used = used_.load();
  while (used + bytes <= total_) {
    if (used_.compare_exchange_weak(used, used + bytes)) return true;
  }
  return false;
}

void MemoryBudget::release(int64_t bytes) noexcept { used_ -= bytes; }

std::optional<int64_t> measure_kept_memory(const std::function<void()>& work) {
  if (c10::ThreadLocalDebugInfo::get(c10::DebugInfoKind::PROFILER_STATE) != nullptr) {
    work();
    return std::nullopt;
  }
  const auto meter = std::make_shared<AllocationMeter>();
  const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, meter);
  work();
  return std::max<int64_t>(meter->kept(), 0);
}

}  // namespace curvature
