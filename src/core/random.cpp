#include <curvature/core/random.hpp>

#include <cmath>
#include <numbers>

#include <ATen/core/PhiloxRNGEngine.h>
#include <ATen/ops/empty.h>

#include "core/check.hpp"

namespace curvature {
namespace {

/// 53 random bits as a number in [0, 1).
double to_unit(uint32_t high, uint32_t low) {
  const uint64_t bits = (static_cast<uint64_t>(high) << 32 | low) >> 11;
  return static_cast<double>(bits) * 0x1.0p-53;
}

double next_unit(at::Philox4_32& engine) {
  const uint32_t high = engine();
  return to_unit(high, engine());
}

template <class Next>
at::Tensor fill(int64_t count, Next next) {
  at::Tensor values = at::empty({count}, at::kDouble);
  double* data = values.mutable_data_ptr<double>();
  for (int64_t i = 0; i < count; ++i) data[i] = next();
  return values;
}

}  // namespace

RandomSource RandomSource::derive(uint64_t purpose) const {
  // One Philox block keyed by the seed, in a stream no caller reaches by counting up.
  at::Philox4_32 engine(seed_, ~purpose, 0);
  const uint64_t high = engine();
  return RandomSource(high << 32 | engine());
}

at::Tensor RandomSource::uniform(uint64_t stream, int64_t count) const {
  at::Philox4_32 engine(seed_, stream, 0);
  return fill(count, [&] { return next_unit(engine); });
}

at::Tensor RandomSource::normal(uint64_t stream, int64_t count) const {
  at::Philox4_32 engine(seed_, stream, 0);
  at::Tensor values = at::empty({count}, at::kDouble);
  double* data = values.mutable_data_ptr<double>();
  for (int64_t i = 0; i < count; i += 2) {  // Box-Muller, two at a time
    const double radius = std::sqrt(-2 * std::log(1 - next_unit(engine)));
    const double angle = 2 * std::numbers::pi * next_unit(engine);
    data[i] = radius * std::cos(angle);
    if (i + 1 < count) data[i + 1] = radius * std::sin(angle);
  }
  return values;
}

at::Tensor RandomSource::rademacher(uint64_t stream, int64_t count) const {
  at::Philox4_32 engine(seed_, stream, 0);
  uint32_t bits = 0;
  int left = 0;
  return fill(count, [&] {
    if (left == 0) {
      bits = engine();
      left = 32;
    }
    const bool positive = bits & 1;
    bits >>= 1;
    --left;
    return positive ? 1.0 : -1.0;
  });
}

at::Tensor draw_probes(const RandomSource& source, Probe probe, int64_t n, int64_t first,
                       int64_t count, const at::TensorOptions& options) {
  CURVATURE_CHECK(n >= 0 && first >= 0 && count >= 0, OptionError,
                  "draw_probes: sizes must not be negative; got n {}, first {}, count {}", n, first,
                  count);
  at::Tensor columns = at::empty({count, n}, options);
  for (int64_t i = 0; i < count; ++i) {
    const auto stream = static_cast<uint64_t>(first + i);
    at::Tensor column =
        probe == Probe::kRademacher ? source.rademacher(stream, n) : source.normal(stream, n);
    if (probe == Probe::kSphere && n > 0) {
      column *= std::sqrt(static_cast<double>(n)) / column.norm().item<double>();
    }
    columns.select(0, i).copy_(column);
  }
  return columns.t();
}

}  // namespace curvature
