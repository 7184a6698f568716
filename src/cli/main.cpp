#include <malloc.h>

#include "cli/tool.hpp"

int main(int argc, char* argv[]) {
  // Without tcmalloc: large tensors come and go with every product; memory that went back to the
  // system each time would be cleared again page by page.
  constexpr int kGibibyte = 1 << 30;
  mallopt(M_MMAP_THRESHOLD, kGibibyte);
  mallopt(M_TRIM_THRESHOLD, kGibibyte);
  return curvature::cli::run_tool(argc, argv);
}
