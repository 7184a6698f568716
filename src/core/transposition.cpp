#include "core/transposition.hpp"

#include <algorithm>

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

namespace curvature::detail {
namespace {

/// Rows and columns that are transposed at once: what is read and written stays in the first cache.
constexpr int64_t kBlock = 64;
constexpr int64_t kTile = 4;

/// A matrix whose entries of a row lie next to each other.
template <typename Scalar>
struct RowMajor {
  Scalar* first;
  int64_t apart;  ///< of the rows

  Scalar* at(int64_t row, int64_t column) const { return first + row * apart + column; }
};

struct Range {
  int64_t begin, end;

  [[nodiscard]] int64_t end_of_tiles() const { return end - (end - begin) % kTile; }
};

/// A tile, through registers.
template <typename Scalar>
void transpose_tile(const RowMajor<const Scalar>& from, const RowMajor<Scalar>& to, int64_t row,
                    int64_t column) {
  Scalar tile[kTile][kTile];
  for (int64_t i = 0; i < kTile; ++i) {
    for (int64_t k = 0; k < kTile; ++k) tile[k][i] = *from.at(row + i, column + k);
  }
  for (int64_t k = 0; k < kTile; ++k) {
    for (int64_t i = 0; i < kTile; ++i) *to.at(column + k, row + i) = tile[k][i];
  }
}

/// Tiles, then what is left below and beside them.
template <typename Scalar>
void transpose_block(const RowMajor<const Scalar>& from, const RowMajor<Scalar>& to,
                     const Range& rows, const Range& columns) {
  for (int64_t k = columns.begin; k < columns.end_of_tiles(); k += kTile) {
    for (int64_t i = rows.begin; i < rows.end_of_tiles(); i += kTile) {
      transpose_tile(from, to, i, k);
    }
  }
  for (int64_t k = columns.begin; k < columns.end; ++k) {
    const int64_t first = k < columns.end_of_tiles() ? rows.end_of_tiles() : rows.begin;
    for (int64_t i = first; i < rows.end; ++i) *to.at(k, i) = *from.at(i, k);
  }
}

at::Tensor transposed(const at::Tensor& matrix) {
  const int64_t n = matrix.size(0), num_columns = matrix.size(1);
  const at::Tensor result = at::empty({num_columns, n}, matrix.options());
  const auto range = [](int64_t block, int64_t size) {
    return Range{block * kBlock, std::min((block + 1) * kBlock, size)};
  };
  const int64_t across = at::divup(num_columns, kBlock);
  const int64_t blocks = at::divup(n, kBlock) * across;
  AT_DISPATCH_FLOATING_TYPES(matrix.scalar_type(), "transposed", [&] {
    const RowMajor<const scalar_t> from = {matrix.const_data_ptr<scalar_t>(), matrix.stride(0)};
    const RowMajor<scalar_t> to = {result.mutable_data_ptr<scalar_t>(), n};
    at::parallel_for(0, blocks, /*grain_size=*/16, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        transpose_block(from, to, range(block / across, n), range(block % across, num_columns));
      }
    });
  });
  return result;
}

}  // namespace

at::Tensor columns_as_rows(const at::Tensor& columns) {
  const int64_t n = columns.size(0), num_columns = columns.size(1);
  // With the strides of a row: LibTorch's copy transposes [1, n] with strides (1, 1), slowly.
  if (num_columns == 1) return columns.contiguous().view({1, n});
  constexpr int64_t kNarrow = 32;  // otherwise LibTorch's copy by squares is as fast
  const bool is_narrow = std::min(n, num_columns) <= kNarrow;
  const bool has_rows = columns.stride(1) == 1 && columns.stride(0) >= num_columns;
  const bool is_for_us =
      columns.is_cpu() && is_narrow && has_rows &&
      (columns.scalar_type() == at::kFloat || columns.scalar_type() == at::kDouble);
  return is_for_us ? transposed(columns) : columns.t().contiguous();
}

}  // namespace curvature::detail
