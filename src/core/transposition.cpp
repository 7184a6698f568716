#include "core/transposition.hpp"

#include <algorithm>

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>

namespace curvature::detail {
namespace {

/// Rows of the operand read at once: with a few dozen columns they stay in the first cache.
constexpr int64_t kRowsAtOnce = 256;

template <typename Scalar>
void transpose(const Scalar* columns, Scalar* rows, int64_t n, int64_t num_columns) {
  at::parallel_for(0, n, int64_t{1} << 16, [=](int64_t first, int64_t last) {
    for (int64_t begin = first; begin < last; begin += kRowsAtOnce) {
      const int64_t end = std::min(begin + kRowsAtOnce, last);
      for (int64_t k = 0; k < num_columns; ++k) {
        for (int64_t i = begin; i < end; ++i) rows[k * n + i] = columns[i * num_columns + k];
      }
    }
  });
}

}  // namespace

at::Tensor columns_as_rows(const at::Tensor& columns) {
  constexpr int64_t kMostColumns = 32;  // beyond, LibTorch's copy by squares is as fast
  const int64_t n = columns.size(0), num_columns = columns.size(1);
  const bool is_float = columns.scalar_type() == at::kFloat;
  const bool is_for_us = columns.is_cpu() && columns.is_contiguous() && num_columns > 1 &&
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
