#pragma once

#include <algorithm>
#include <cstdint>

#include <ATen/Parallel.h>

#include "core/threads.hpp"

namespace curvature::detail {

/// Rows of `width` numbers that are worked on at a time: a few tensors of them stay in the second
/// cache of a core, where an operation takes a fraction of what it takes in memory.
inline int64_t rows_of_a_piece(int64_t width) {
  constexpr int64_t kNumbers = 1 << 14;
  return std::max<int64_t>(1, kNumbers / std::max<int64_t>(1, width));
}

inline int64_t num_pieces(int64_t rows, int64_t width) {
  return at::divup(rows, rows_of_a_piece(width));
}

/// Calls `compute(piece, begin, count)` for all pieces of `rows` rows, distributed over the threads
/// of LibTorch, without autograd.
template <class Compute>
void by_pieces(int64_t rows, int64_t width, const Compute& compute) {
  const int64_t size = rows_of_a_piece(width);
  by_threads(num_pieces(rows, width), [&](int64_t first, int64_t end) {
    for (int64_t piece = first; piece < end; ++piece) {
      compute(piece, piece * size, std::min(size, rows - piece * size));
    }
  });
}

}  // namespace curvature::detail
