#include <cmath>
#include <vector>

#include <curvature/core/random.hpp>

#include "support/tensor_close.hpp"

BOOST_AUTO_TEST_SUITE(random_test)

using namespace curvature;

BOOST_AUTO_TEST_CASE(a_stream_depends_on_seed_and_number_only) {
  const RandomSource source(7);

  BOOST_TEST(source.uniform(3, 10).equal(RandomSource(7).uniform(3, 10)));
  BOOST_TEST(!source.uniform(3, 10).equal(source.uniform(4, 10)));
  BOOST_TEST(!source.uniform(3, 10).equal(RandomSource(8).uniform(3, 10)));
  BOOST_TEST(!source.uniform(3, 10).equal(source.derive(0).uniform(3, 10)));
  BOOST_TEST(!source.derive(1).uniform(3, 10).equal(source.derive(0).uniform(3, 10)));
}

BOOST_AUTO_TEST_CASE(a_longer_draw_begins_with_the_shorter_one) {
  const RandomSource source(1);

  BOOST_TEST(source.normal(0, 9).narrow(0, 0, 4).equal(source.normal(0, 4)));
  BOOST_TEST(source.rademacher(0, 70).narrow(0, 0, 33).equal(source.rademacher(0, 33)));
}

BOOST_AUTO_TEST_CASE(numbers_are_the_same_with_one_thread_and_three) {
  constexpr int64_t kCount = 100001;  // cuts the last block of the generator
  const RandomSource source(5);
  const auto all = [&] {
    return std::vector<at::Tensor>{
        source.uniform(1, kCount), source.normal(1, kCount), source.rademacher(1, kCount),
        draw_probes(source, Probe::kRademacher, kCount, 0, 2, at::kFloat)};
  };
  const int before = at::get_num_threads();
  at::set_num_threads(1);
  const auto with_one = all();
  at::set_num_threads(3);
  const auto with_three = all();
  at::set_num_threads(before);
  for (size_t i = 0; i < with_one.size(); ++i) BOOST_TEST(with_three[i].equal(with_one[i]));
}

// With n draws the mean of a variable of variance s^2 lies within 5 s / sqrt(n) of its expectation
// but for one seed in 1.7 million.
void check_mean(const at::Tensor& values, double expected, double variance) {
  const double bound = 5 * std::sqrt(variance / static_cast<double>(values.numel()));
  BOOST_TEST(std::abs(values.mean().item<double>() - expected) <= bound);
}

BOOST_AUTO_TEST_CASE(moments_are_those_of_the_distributions) {
  const RandomSource source(123);
  const int64_t n = 200000;

  const at::Tensor uniform = source.uniform(0, n);
  check_mean(uniform, 0.5, 1.0 / 12);
  check_mean(uniform.square(), 1.0 / 3, 4.0 / 45);
  BOOST_TEST((uniform.min().item<double>() >= 0 && uniform.max().item<double>() < 1));

  const at::Tensor normal = source.normal(0, n);
  check_mean(normal, 0, 1);
  check_mean(normal.square(), 1, 2);
  check_mean(normal.pow(4), 3, 96);
  check_mean(normal.narrow(0, 1, n - 1) * normal.narrow(0, 0, n - 1), 0, 1);

  const at::Tensor sign = source.rademacher(0, n);
  check_mean(sign, 0, 1);
  BOOST_TEST(sign.abs().eq(1).all().item<bool>());
}

BOOST_AUTO_TEST_CASE(probes_do_not_depend_on_chunking) {
  const RandomSource source(5);
  for (const Probe probe : {Probe::kRademacher, Probe::kGaussian, Probe::kSphere}) {
    const auto all = draw_probes(source, probe, 17, 0, 6, at::kDouble);
    BOOST_TEST(all.narrow(1, 2, 3).equal(draw_probes(source, probe, 17, 2, 3, at::kDouble)));
  }
  const auto sphere = draw_probes(source, Probe::kSphere, 17, 0, 6, at::kDouble);
  BOOST_TEST(testing::close(sphere.square().sum(0), at::full({6}, 17.0, at::kDouble)));
}

BOOST_AUTO_TEST_CASE(probes_in_float32_are_those_in_float64_rounded) {
  const RandomSource source(6);
  for (const Probe probe : {Probe::kRademacher, Probe::kGaussian, Probe::kSphere}) {
    const auto single = draw_probes(source, probe, 1001, 3, 2, at::kFloat);
    BOOST_TEST(single.equal(draw_probes(source, probe, 1001, 3, 2, at::kDouble).to(at::kFloat)));
    BOOST_TEST(single.stride(0) == 1);
  }
}

BOOST_AUTO_TEST_SUITE_END()
