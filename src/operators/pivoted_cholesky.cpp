#include "operators/pivoted_cholesky.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/Dispatch.h>
#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/topk.h>

#include "core/matrix_product.hpp"

namespace curvature::detail {
namespace {

constexpr int64_t kCandidates = 64;     ///< rows of what is left that are known at once
constexpr double kAlmostLargest = 0.8;  ///< with 0.5 errors grow by a third: measured

/// Rows of what is left of the matrix, which become rows of the factor, one pivot after the other.
template <typename T>
class Block {
 public:
  /// @param rows `[c, n]`, contiguous, in host memory, as are the others
  /// @param pivots which rows of the matrix these are
  /// @param diagonal what is left of it
  Block(const at::Tensor& rows, const at::Tensor& pivots, const at::Tensor& diagonal, double floor)
      : rows_(rows.mutable_data_ptr<T>()),
        pivots_(pivots.const_data_ptr<int64_t>(),
                pivots.const_data_ptr<int64_t>() + pivots.numel()),
        diagonal_(diagonal.mutable_data_ptr<T>()),
        n_(rows.size(1)),
        floor_(static_cast<T>(floor)) {}

  /// How many rows, the first ones, have become rows of the factor.
  int64_t eliminate() {
    const auto count = static_cast<int64_t>(pivots_.size());
    for (int64_t done = 0; done < count; ++done) {
      const auto best =
          std::max_element(pivots_.begin() + done, pivots_.end(),
                           [this](int64_t a, int64_t b) { return diagonal_[a] < diagonal_[b]; });
      const T largest = *std::max_element(diagonal_, diagonal_ + n_);
      if (diagonal_[*best] <= floor_ || diagonal_[*best] < kAlmostLargest * largest) return done;
      exchange(done, best - pivots_.begin());
      if (!make_row(done)) return done;
    }
    return count;
  }

 private:
  T* row(int64_t i) { return rows_ + i * n_; }

  int64_t pivot_of(int64_t i) const { return pivots_[static_cast<size_t>(i)]; }

  void exchange(int64_t a, int64_t b) {
    if (a == b) return;
    std::swap_ranges(row(a), row(a) + n_, row(b));
    std::iter_swap(pivots_.begin() + a, pivots_.begin() + b);
  }

  /// False if the pivot is nothing but rounding.
  bool make_row(int64_t done) {
    T* const x = row(done);
    const int64_t pivot = pivot_of(done);
    for (int64_t i = 0; i < done; ++i) {
      const T* const earlier = row(i);
      const T factor = earlier[pivot];
      for (int64_t j = 0; j < n_; ++j) x[j] -= factor * earlier[j];
    }
    if (x[pivot] <= floor_) return false;
    const T scale = 1 / std::sqrt(x[pivot]);
    for (int64_t j = 0; j < n_; ++j) x[j] *= scale;
    for (int64_t i = 0; i < done; ++i) x[pivot_of(i)] = 0;
    for (int64_t j = 0; j < n_; ++j) diagonal_[j] = std::max(T(0), diagonal_[j] - x[j] * x[j]);
    diagonal_[pivot] = 0;
    return true;
  }

  T* rows_;
  std::vector<int64_t> pivots_;
  T* diagonal_;
  int64_t n_;
  T floor_;
};

}  // namespace

double frobenius_norm(const at::Tensor& x) {
  return at::linalg_vector_norm(x, 2, at::nullopt, false, at::kDouble).item<double>();
}

at::Tensor pivoted_cholesky(const at::Tensor& matrix, const PivotedCholeskyLimits& limits) {
  const int64_t n = matrix.size(0);
  const double all = frobenius_norm(matrix);
  at::Tensor diagonal = matrix.diagonal().cpu().clone();
  const double floor = n == 0 ? 0 : limits.negligible * diagonal.max().item<double>();
  at::Tensor factor = at::empty({limits.max_columns, n}, matrix.options());
  int64_t done = 0;
  while (done < limits.max_columns) {
    const int64_t count = std::min(kCandidates, limits.max_columns - done);
    const at::Tensor pivots = std::get<1>(diagonal.topk(count));
    const at::Tensor where = pivots.to(matrix.device());
    at::Tensor rows = matrix.index_select(0, where);
    if (done > 0) {
      const at::Tensor before = factor.narrow(0, 0, done);
      rows.sub_(matrix_product(before.index_select(1, where).t(), before));
    }
    // |S|_F^2 from the share that these rows have of its trace.
    const double trace = diagonal.sum(at::kDouble).item<double>();
    const double known = diagonal.index_select(0, pivots).sum(at::kDouble).item<double>();
    if (known <= 0) break;
    const double left = frobenius_norm(rows) * std::sqrt(trace / known) / all;
    if (left <= limits.negligible) break;
    if (!limits.is_worth_it(done, left)) return {};
    at::Tensor host = rows.cpu();
    int64_t made = 0;
    AT_DISPATCH_FLOATING_TYPES(matrix.scalar_type(), "pivoted_cholesky", [&] {
      made = Block<scalar_t>(host, pivots, diagonal, floor).eliminate();
    });
    if (made == 0) break;
    factor.narrow(0, done, made).copy_(host.narrow(0, 0, made));
    done += made;
  }
  return factor.narrow(0, 0, done);
}

}  // namespace curvature::detail
