#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include <curvature/core/space.hpp>

namespace curvature {

/// A seeded source of independent random streams (counter-based: Philox 4x32-10, Salmon et al.
/// 2011).
///
/// A value without state: stream i always holds the same numbers, whoever asks and in whatever
/// order, so results do not depend on batch size, threads, chunking or device. Numbers are drawn in
/// double on the CPU and then converted.
class RandomSource {
 public:
  /// The source of seed 0.
  RandomSource() = default;
  /// The source of `seed`: equal seeds, equal numbers.
  explicit RandomSource(uint64_t seed) : seed_(seed) {}

  /// What the source was made from.
  uint64_t seed() const noexcept { return seed_; }
  /// Another source whose streams are independent of this one's; `purpose` tells them apart.
  RandomSource derive(uint64_t purpose) const;

  /// `count` numbers uniform in [0, 1) from `stream`, `[count]`, float64 on the CPU.
  at::Tensor uniform(uint64_t stream, int64_t count) const;
  /// `count` standard normal numbers from `stream`, `[count]`, float64 on the CPU.
  at::Tensor normal(uint64_t stream, int64_t count) const;
  /// The same for `num_streams` consecutive streams at once, `[num_streams, count]`.
  at::Tensor uniform(uint64_t first_stream, int64_t num_streams, int64_t count) const;
  /// The same, standard normal.
  at::Tensor normal(uint64_t first_stream, int64_t num_streams, int64_t count) const;
  /// `count` signs, each +1 or -1, from `stream`, `[count]`, float64 on the CPU.
  at::Tensor rademacher(uint64_t stream, int64_t count) const;

 private:
  uint64_t seed_ = 0;
};

/// Distribution of the random vectors of an estimator.
enum class Probe {
  kRademacher,  ///< entries +1 or -1
  kGaussian,    ///< standard normal entries
  kSphere,      ///< uniform on the sphere of radius sqrt(n)
};

/// Probes number `first`, ..., `first + count - 1` of `source` as columns `[n, count]`; column i
/// depends on the seed and i only, so drawing in chunks changes nothing.
at::Tensor draw_probes(const RandomSource& source, Probe probe, int64_t n, int64_t first,
                       int64_t count, const at::TensorOptions& options);

}  // namespace curvature
