#pragma once

#include <cstdint>

#include <ATen/Parallel.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/util/ThreadLocalDebugInfo.h>

namespace curvature::detail {

/// How many threads share the work of a loop here: within such a loop there is one.
inline int64_t num_threads() { return at::in_parallel_region() ? 1 : at::get_num_threads(); }

/// Calls `work(first, end)` for parts of 0, ..., count - 1, distributed over the threads of
/// LibTorch: for work that calls LibTorch's operations. They record no graph, and this thread's
/// memory meter counts what they allocate; LibTorch warns of what a meter sees freed only.
template <class Work>
void by_threads(int64_t count, const Work& work) {
  const auto meters = c10::ThreadLocalDebugInfo::current();
  at::parallel_for(0, count, /*grain_size=*/1, [&](int64_t first, int64_t end) {
    const c10::DebugInfoGuard counted_here(meters);
    const at::AutoDispatchBelowADInplaceOrView without_autograd;
    work(first, end);
  });
}

}  // namespace curvature::detail
