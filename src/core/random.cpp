#include <algorithm>
#include <cmath>
#include <numbers>

#include <ATen/Parallel.h>
#include <ATen/core/PhiloxRNGEngine.h>
#include <ATen/ops/empty.h>

#include <curvature/core/random.hpp>

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

// What fills numbers says how many it makes of a block of Philox (128 bits), so that threads may
// begin at any block.

struct Uniform {
  static constexpr int64_t kPerBlock = 2;
  void operator()(at::Philox4_32 engine, double* data, int64_t count) const {
    for (int64_t i = 0; i < count; ++i) data[i] = next_unit(engine);
  }
};

/// Box-Muller, two at a time.
struct Normal {
  static constexpr int64_t kPerBlock = 2;
  void operator()(at::Philox4_32 engine, double* data, int64_t count) const {
    for (int64_t i = 0; i < count; i += 2) {
      const double radius = std::sqrt(-2 * std::log(1 - next_unit(engine)));
      const double angle = 2 * std::numbers::pi * next_unit(engine);
      data[i] = radius * std::cos(angle);
      if (i + 1 < count) data[i + 1] = radius * std::sin(angle);
    }
  }
};

struct Signs {
  static constexpr int64_t kPerBlock = 128;
  template <class Scalar>
  void operator()(at::Philox4_32 engine, Scalar* data, int64_t count) const {
    for (int64_t i = 0; i < count; i += 32) {
      const uint32_t bits = engine();
      const int64_t size = std::min<int64_t>(32, count - i);
      for (int64_t j = 0; j < size; ++j) {  // no branch, so that the loop is vectorised
        data[i + j] = static_cast<Scalar>(2 * static_cast<int32_t>(bits >> j & 1) - 1);
      }
    }
  }
};

/// The first `count` numbers of a stream.
template <class Fill, class Scalar>
void fill(uint64_t seed, uint64_t stream, Scalar* data, int64_t count) {
  constexpr int64_t kPerBlock = Fill::kPerBlock, kGrain = (1 << 14) / kPerBlock;
  const int64_t blocks = at::divup(count, kPerBlock);
  at::parallel_for(0, blocks, kGrain, [=](int64_t first, int64_t end) {
    const int64_t begin = first * kPerBlock;
    Fill()(at::Philox4_32(seed, stream, static_cast<uint64_t>(first)), data + begin,
           std::min(end * kPerBlock, count) - begin);
  });
}

/// Rows `[num_streams, count]`, row i from stream `first_stream + i`.
template <class Fill>
at::Tensor draw(uint64_t seed, uint64_t first_stream, int64_t num_streams, int64_t count) {
  at::Tensor values = at::empty({num_streams, count}, at::kDouble);
  double* data = values.mutable_data_ptr<double>();
  for (int64_t i = 0; i < num_streams; ++i) {
    fill<Fill>(seed, first_stream + static_cast<uint64_t>(i), data + i * count, count);
  }
  return values;
}

}  // namespace

RandomSource RandomSource::derive(uint64_t purpose) const {
  // One Philox block keyed by the seed, in a stream no caller reaches by counting up.
  at::Philox4_32 engine(seed_, ~purpose, 0);
  const uint64_t high = engine();
  return RandomSource(high << 32 | engine());
}

at::Tensor RandomSource::uniform(uint64_t first_stream, int64_t num_streams, int64_t count) const {
  return draw<Uniform>(seed_, first_stream, num_streams, count);
}

at::Tensor RandomSource::normal(uint64_t first_stream, int64_t num_streams, int64_t count) const {
  return draw<Normal>(seed_, first_stream, num_streams, count);
}

at::Tensor RandomSource::uniform(uint64_t stream, int64_t count) const {
  return uniform(stream, 1, count).squeeze(0);
}

at::Tensor RandomSource::normal(uint64_t stream, int64_t count) const {
  return normal(stream, 1, count).squeeze(0);
}

at::Tensor RandomSource::rademacher(uint64_t stream, int64_t count) const {
  return draw<Signs>(seed_, stream, 1, count).squeeze(0);
}

at::Tensor draw_probes(const RandomSource& source, Probe probe, int64_t n, int64_t first,
                       int64_t count, const at::TensorOptions& options) {
  CURVATURE_CHECK(n >= 0 && first >= 0 && count >= 0, OptionError,
                  "draw_probes: sizes must not be negative; got n {}, first {}, count {}", n, first,
                  count);
  at::Tensor columns = at::empty({count, n}, options);
  const bool direct = columns.is_cpu() && columns.scalar_type() == at::kFloat;
  for (int64_t i = 0; i < count; ++i) {
    const auto stream = static_cast<uint64_t>(first + i);
    if (probe == Probe::kRademacher && direct) {  // signs need no double in between
      fill<Signs>(source.seed(), stream, columns[i].mutable_data_ptr<float>(), n);
      continue;
    }
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
