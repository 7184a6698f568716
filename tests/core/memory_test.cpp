#include <curvature/core/error.hpp>
#include <curvature/core/memory.hpp>

#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(memory_test)

using namespace curvature;

BOOST_AUTO_TEST_CASE(a_budget_is_never_overdrawn) {
  MemoryBudget budget(100);

  BOOST_TEST(budget.reserve(60));
  BOOST_TEST(!budget.reserve(41));
  BOOST_TEST(budget.reserve(40));
  BOOST_TEST(budget.used() == 100);
  budget.release(60);
  BOOST_TEST(budget.reserve(60));
  BOOST_CHECK_THROW(MemoryBudget(-1), OptionError);
}

BOOST_AUTO_TEST_CASE(kept_memory_counts_what_outlives_the_work) {
  at::Tensor kept;
  std::optional<int64_t> inner;
  const auto bytes = measure_kept_memory([&] {
    kept = at::ones({1000}, at::kDouble);
    const at::Tensor dropped = at::ones({5000}, at::kDouble);
    inner = measure_kept_memory([] {});
  });

  BOOST_TEST_REQUIRE(bytes.has_value());
  BOOST_TEST((*bytes >= 8000 && *bytes < 9000));
  BOOST_TEST(!inner.has_value());  // one meter at a time
}

BOOST_AUTO_TEST_CASE(available_memory_is_plausible) {
  const int64_t bytes = available_memory(at::kCPU);

  BOOST_TEST((bytes > (int64_t{1} << 20) && bytes < (int64_t{1} << 50)));
  BOOST_TEST((default_memory_budget(at::kCPU) <= bytes));
}

BOOST_AUTO_TEST_SUITE_END()
