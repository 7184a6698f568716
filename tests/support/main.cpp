#include <ATen/Parallel.h>

#include "../../src/core/fast_kernels.hpp"

// Written out because the precompiled header already holds Boost.Test without its `main`.
int main(int argc, char* argv[]) {
  at::set_num_threads(1);  // CTest runs processes in parallel
  const curvature::detail::OneDnnEverywhere as_on_every_processor;
  return boost::unit_test::unit_test_main([] { return true; }, argc, argv);
}
