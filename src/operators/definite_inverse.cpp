#include "operators/definite_inverse.hpp"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cholesky_inverse.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_solve_triangular.h>

#include "core/matrix_product.hpp"

namespace curvature::detail {
namespace {

/// The Cholesky factor in the lower triangle, with rubbish above it; nothing if there is none.
std::optional<at::Tensor> cholesky_by_blocks(const at::Tensor& matrix, int64_t block) {
  const int64_t n = matrix.size(0);
  at::Tensor factor = matrix.clone(at::MemoryFormat::Contiguous);
  for (int64_t begin = 0; begin < n; begin += block) {
    const int64_t count = std::min(block, n - begin), below = n - begin - count;
    at::Tensor columns = factor.narrow(0, begin, n - begin).narrow(1, begin, count);
    if (begin > 0) {
      const at::Tensor left = factor.narrow(0, begin, n - begin).narrow(1, 0, begin);
      columns.sub_(matrix_product(left, left.narrow(0, 0, count).t()));
    }
    at::Tensor corner = columns.narrow(0, 0, count);
    const auto [root, failure] = at::linalg_cholesky_ex(corner);
    if (failure.item<int64_t>() != 0) return std::nullopt;
    corner.copy_(root);
    if (below == 0) break;
    at::Tensor rest = columns.narrow(0, count, below);
    rest.copy_(at::linalg_solve_triangular(root.t(), rest, /*upper=*/true, /*left=*/false));
  }
  return factor;
}

}  // namespace

std::optional<at::Tensor> definite_inverse_by_blocks(const at::Tensor& matrix, int64_t block) {
  const std::optional<at::Tensor> factor = cholesky_by_blocks(matrix, block);
  if (!factor) return std::nullopt;
  const int64_t n = matrix.size(0);
  at::Tensor inverse = at::empty_like(*factor);
  // With the factor [L 0; M N] and X the inverse of N N^T the whole inverse is
  // [L^-T L^-1 + W^T X W, -W^T X; -X W, X], W = M L^-1.
  for (int64_t begin = (n - 1) / block * block; begin >= 0; begin -= block) {
    const int64_t count = std::min(block, n - begin), end = begin + count, after = n - end;
    const at::Tensor root = factor->narrow(0, begin, count).narrow(1, begin, count);
    const at::Tensor root_inverse =
        at::linalg_solve_triangular(root, at::eye(count, matrix.options()), /*upper=*/false);
    at::Tensor corner = root_inverse.t().mm(root_inverse);
    if (after > 0) {
      const at::Tensor w =
          matrix_product(factor->narrow(0, end, after).narrow(1, begin, count), root_inverse);
      const at::Tensor xw = matrix_product(inverse.narrow(0, end, after).narrow(1, end, after), w);
      inverse.narrow(0, end, after).narrow(1, begin, count).copy_(xw).neg_();
      inverse.narrow(0, begin, count).narrow(1, end, after).copy_(xw.t()).neg_();
      corner.add_(matrix_product(w.t(), xw));
    }
    inverse.narrow(0, begin, count).narrow(1, begin, count).copy_((corner + corner.t()).mul_(0.5));
  }
  return inverse;
}

std::optional<at::Tensor> definite_inverse(const at::Tensor& matrix) {
  // Measured: larger blocks leave more to LAPACK, with smaller ones products run more slowly. The
  // gain comes from oneDNN: without it there is none.
  constexpr int64_t kSmallest = 768, kSmallestBlock = 192, kLargestBlock = 384, kBlocks = 12;
  const int64_t n = matrix.size(0);
  if (n >= kSmallest && is_for_one_dnn(matrix, matrix)) {
    return definite_inverse_by_blocks(matrix,
                                      std::clamp(n / kBlocks, kSmallestBlock, kLargestBlock));
  }
  const auto [factor, failure] = at::linalg_cholesky_ex(matrix);
  if (failure.item<int64_t>() != 0) return std::nullopt;
  return at::cholesky_inverse(factor);
}

}  // namespace curvature::detail
