// Part of every program where tcmalloc is missing, see CurvatureDependencies.cmake.
#include <malloc.h>

namespace {

constexpr int kGibibyte = 1 << 30;

// Before `main`: large tensors come and go with every product, and by default glibc gives each
// back to the system, from which it returns as pages that have to be cleared.
[[maybe_unused]] const bool kPagesAreKept =
    mallopt(M_MMAP_THRESHOLD, kGibibyte) == 1 && mallopt(M_TRIM_THRESHOLD, kGibibyte) == 1;

}  // namespace
