#pragma once

namespace curvature::detail {

#if defined(__x86_64__)

template <class F>
__attribute__((target("avx2"))) void compiled_for_avx2(const F& work) {
  work();
}

/// Calls `work()`, whose loops are compiled a second time for AVX2 and taken so where the processor
/// has it: the same operations on eight numbers at a time instead of four. For what is inlined into
/// it, so that `work` and what has its loops are to be always inlined.
template <class F>
void with_avx2(const F& work) {
  static const bool is_there = __builtin_cpu_supports("avx2");
  is_there ? compiled_for_avx2(work) : work();
}

#else

template <class F>
void with_avx2(const F& work) {
  work();
}

#endif

}  // namespace curvature::detail
