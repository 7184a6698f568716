#include "core/transposition.hpp"

#include <algorithm>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

namespace curvature::detail {
namespace {

/// Rows of the operand read at once: with a few dozen columns they stay in the first cache.
constexpr int64_t kRowsAtOnce = 64;
constexpr int64_t kTile = 4;

/// A tile, through registers.
template <typename Scalar>
void transpose_tile(const Scalar* columns, int64_t num_columns, Scalar* rows, int64_t n) {
  Scalar tile[kTile][kTile];
  for (int64_t i = 0; i < kTile; ++i) {
    for (int64_t k = 0; k < kTile; ++k) tile[k][i] = columns[i * num_columns + k];
  }
  for (int64_t k = 0; k < kTile; ++k) {
    for (int64_t i = 0; i < kTile; ++i) rows[k * n + i] = tile[k][i];
  }
}

/// Rows from `begin` to `end`: tiles, then what is left below and beside them.
template <typename Scalar>
void transpose_rows(const Scalar* columns, Scalar* rows, int64_t n, int64_t num_columns,
                    int64_t begin, int64_t end) {
  const int64_t tiles_end = end - (end - begin) % kTile;
  const int64_t tiled_columns = num_columns - num_columns % kTile;
  for (int64_t k = 0; k < tiled_columns; k += kTile) {
    for (int64_t i = begin; i < tiles_end; i += kTile) {
      transpose_tile(columns + i * num_columns + k, num_columns, rows + k * n + i, n);
    }
  }
  for (int64_t k = 0; k < num_columns; ++k) {
    const int64_t first = k < tiled_columns ? tiles_end : begin;
    for (int64_t i = first; i < end; ++i) rows[k * n + i] = columns[i * num_columns + k];
  }
}

template <typename Scalar>
void transpose(const Scalar* columns, Scalar* rows, int64_t n, int64_t num_columns) {
  at::parallel_for(0, n, int64_t{1} << 16, [=](int64_t first, int64_t last) {
    for (int64_t begin = first; begin < last; begin += kRowsAtOnce) {
      const int64_t end = std::min(begin + kRowsAtOnce, last);
      transpose_rows(columns, rows, n, num_columns, begin, end);
    }
  });
}

}  // namespace

at::Tensor columns_as_rows(const at::Tensor& columns) {
  constexpr int64_t kMostColumns = 32;  // beyond, LibTorch's copy by squares is as fast
  const int64_t n = columns.size(0), num_columns = columns.size(1);
  // With the strides of a row: LibTorch's copy transposes [1, n] with strides (1, 1), slowly.
  if (num_columns == 1) return columns.contiguous().view({1, n});
  const bool is_float = columns.scalar_type() == at::kFloat;
  const bool is_for_us = columns.is_cpu() && columns.is_contiguous() &&
                         num_columns <= kMostColumns &&
                         (is_float || columns.scalar_type() == at::kDouble);
  if (!is_for_us) return columns.t().contiguous();
  at::Tensor rows = at::empty({num_columns, n}, columns.options());
  if (is_float) {
    transpose(columns.const_data_ptr<float>(), rows.mutable_data_ptr<float>(), n, num_columns);
  } else {
    transpose(columns.const_data_ptr<double>(), rows.mutable_data_ptr<double>(), n, num_columns);
  }
  return rows;
}

}  // namespace curvature::detail
