#include <ATen/Parallel.h>

// Written out because the precompiled header already holds Boost.Test without its `main`.
int main(int argc, char* argv[]) {
  at::set_num_threads(1);  // CTest runs processes in parallel
  return boost::unit_test::unit_test_main([] { return true; }, argc, argv);
}
