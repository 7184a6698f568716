#pragma once

#include <cstdint>
#include <optional>

#include <curvature/core/progress.hpp>

namespace curvature {

/// Which diagonal blocks of a curvature matrix are kept.
enum class Blocks {
  kFull,       ///< the whole matrix
  kLayer,      ///< one block per module: the parameters it owns directly (names up to the last dot)
  kParameter,  ///< one block per parameter tensor
};

/// Options of all matrix-free operators.
struct MatrixFreeOptions {
  /// Bytes that may be kept between products (the linearisations of batches, first come, first
  /// kept); 0 recomputes always. Empty: `default_memory_budget` of the device. Results agree to
  /// rounding.
  std::optional<int64_t> memory_budget{};
  /// The diagonal blocks to keep.
  Blocks blocks = Blocks::kFull;
  /// Sees the batches of each product pass by.
  Observer observer{};
};

}  // namespace curvature
