#include "spectral/krylov_space.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/tensor.h>
#include <ATen/ops/zeros.h>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "core/inner_product.hpp"
#include "core/transposition.hpp"
#include "spectral/eigen_support.hpp"
#include "spectral/inner_products.hpp"
#include "spectral/sampling.hpp"

namespace curvature::detail {
namespace {

/// A Gram-Schmidt pass leaves rounding relative to what it was given; where less than this remains,
/// another one follows.
constexpr double kCancellation = 0.02;
constexpr int kMaxPasses = 4;

std::vector<double> row_norms(const at::Tensor& rows) {
  std::vector<double> norms;
  for (int64_t i = 0; i < rows.size(0); ++i) norms.push_back(norm(rows[i]));
  return norms;
}

double largest_column_norm(const at::Tensor& matrix) {
  return matrix.numel() == 0 ? 0 : matrix.norm(2, {0}).max().item<double>();
}

/// W = R^T Q for rows W `[w, n]`.
struct Triangular {
  int64_t rank;
  at::Tensor factor;  ///< R `[rank, w]`
  double smallest;    ///< diagonal entry of R
};

/// Makes `block` orthonormal in place by the modified Gram-Schmidt process, the longest row first,
/// until nothing longer than `threshold` remains. `norms` are those of the rows.
Triangular gram_schmidt(at::Tensor& block, std::vector<double> norms, double threshold) {
  const int64_t width = block.size(0);
  Triangular result{0, at::zeros({width, width}, at::kDouble), 0};
  std::vector<int64_t> order(width);  // which row of W a row of the block was
  std::iota(order.begin(), order.end(), 0);
  for (int64_t i = 0; i < width; ++i) {
    if (i > 0) norms = row_norms(block.narrow(0, i, width - i));
    const auto longest = std::max_element(norms.begin(), norms.end());
    if (!(*longest > threshold)) break;
    const int64_t pivot = i + (longest - norms.begin());
    if (pivot != i) {
      const at::Tensor row = block[i].clone();
      block[i].copy_(block[pivot]);
      block[pivot].copy_(row);
      std::swap(order[i], order[pivot]);
    }
    const at::Tensor unit = block.narrow(0, i, 1).div_(*longest);
    at::Tensor rest = block.narrow(0, i + 1, width - i - 1);
    const at::Tensor components = inner_products(rest.t(), unit.t());
    rest.addmm_(components.to(rest.options()), unit, 1, -1);
    result.factor[i][order[i]] = *longest;
    for (int64_t j = i + 1; j < width; ++j) {
      result.factor[i][order[j]] = components[j - i - 1][0];
    }
    result.rank = i + 1;
    result.smallest = *longest;
  }
  result.factor = result.factor.narrow(0, 0, result.rank);
  return result;
}

}  // namespace

/// W = R^T Q for rows W `[w, n]`: the rank r, R `[r, w]`, and V^T W^T before, `[count, w]`.
struct KrylovSpace::Factored {
  int64_t rank;
  at::Tensor factor;
  at::Tensor components;
};

KrylovSpace::KrylovSpace(const LinearOperator& a, int64_t capacity, int64_t block_size,
                         const RandomSource& random, const at::Tensor& start)
    : a_(a),
      capacity_(capacity),
      block_size_(block_size),
      random_(random),
      buffer_(at::empty({capacity + block_size, a.rows()}, tensor_options(a))),
      projection_(at::zeros({capacity + block_size, capacity + block_size}, at::kDouble)) {
  if (start.defined()) {
    at::Tensor first = rows(0, 1);
    first.copy_(start.unsqueeze(0));
    width_ = orthonormalize(first, 0, 0).rank;
  }
  fill_up();
}

void KrylovSpace::expand() {
  const int64_t begin = size_, width = width_, end = size_ + width_;
  const at::Tensor block = rows(begin, end);
  at::Tensor next = rows(end, end + width);
  next.copy_(columns_as_rows(a_.apply(block.t())));
  products_ += width;
  ++num_steps_;

  // Known couplings go first. What is left along the basis is rounding, and one pass removes it.
  if (coupled_from_ == 0 && begin > 0) ++basis_passes_;
  subtract(next, coupled_from_, coupling(coupled_from_, begin - coupled_from_, begin, width));
  const at::Tensor own = inner_products(block.t(), next.t());
  CURVATURE_CHECK(detail::is_finite(own), NumericalError,
                  "Lanczos iteration: a product of {} is not finite", a_.describe());
  coupling(begin, width, begin, width).copy_(own);
  scale_ = std::max(scale_, largest_column_norm(coupling(0, end, begin, width)));
  subtract(next, begin, own);
  size_ = end;
  const Factored factored =
      orthonormalize(next, end, breakdown_threshold(a_.spec().dtype) * scale_);
  scale_ = std::max(scale_, largest_column_norm(factored.factor));
  at::Tensor column = coupling(0, end, begin, width);
  column += factored.components;
  const at::Tensor corner = coupling(begin, width, begin, width);
  corner.copy_((corner + corner.t()) / 2);
  coupling(begin, width, 0, begin).copy_(column.narrow(0, 0, begin).t());

  const int64_t room = std::min(block_size_, a_.rows() - size_);
  width_ = std::min(factored.rank, room);
  coupled_from_ = begin;
  const at::Tensor factor = factored.factor.narrow(0, 0, width_);
  coupling(end, width_, begin, width).copy_(factor);
  coupling(begin, width, end, width_).copy_(factor.t());
  fill_up();
}

/// block -= coefficients^T V^T, for the rows of the basis from `begin` on.
void KrylovSpace::subtract(at::Tensor& block, int64_t begin, const at::Tensor& coefficients) {
  if (coefficients.size(0) == 0) return;
  const at::Tensor basis = rows(begin, begin + coefficients.size(0));
  block.addmm_(coefficients.t().to(buffer_.options()), basis, 1, -1);
}

/// One Gram-Schmidt pass against the first `count` rows; returns what it removed, `[count, w]`.
at::Tensor KrylovSpace::remove_basis(at::Tensor& block, int64_t count) {
  const at::Tensor components = inner_products(rows(0, count).t(), block.t());
  subtract(block, 0, components);
  basis_passes_ += 2;
  return components;
}

/// Makes the rows of `block` orthonormal and orthogonal to the first `count` rows of the buffer,
/// leading ones first; drops what is not larger than `smallest`.
KrylovSpace::Factored KrylovSpace::orthonormalize(at::Tensor& block, int64_t count,
                                                  double smallest) {
  Factored result{block.size(0), at::eye(block.size(0), at::kDouble),
                  at::zeros({count, block.size(0)}, at::kDouble)};
  for (int pass = 0; pass < kMaxPasses && result.rank > 0; ++pass) {
    at::Tensor current = block.narrow(0, 0, result.rank);
    at::Tensor removed = at::zeros({count, result.rank}, at::kDouble);
    if (count > 0) removed = remove_basis(current, count);
    result.components += removed.mm(result.factor);
    const std::vector<double> norms = row_norms(current);
    // By Pythagoras, how long the rows were: a pass over them saved.
    const at::Tensor after = at::tensor(norms, at::kDouble);
    const double before = (removed.square().sum(0) + after.square()).max().sqrt().item<double>();
    const Triangular triangular = gram_schmidt(current, norms, smallest);
    result.rank = triangular.rank;
    result.factor = triangular.factor.mm(result.factor);
    if (triangular.smallest >= kCancellation * before) break;
    smallest = kCancellation * kCancellation;  // from now on rows have norm 1
  }
  return result;
}

/// Fills the next block up with random vectors, uncoupled to the basis.
void KrylovSpace::fill_up() {
  const int64_t n = a_.rows();
  const int64_t wanted = std::min(block_size_, n - size_) - width_;
  if (wanted <= 0) return;
  const int64_t begin = size_ + width_;
  at::Tensor fresh = rows(begin, begin + wanted);
  fresh.copy_(draw_probes(random_, Probe::kGaussian, n, static_cast<int64_t>(next_stream_), wanted,
                          buffer_.options())
                  .t());
  next_stream_ += wanted;
  width_ += orthonormalize(fresh, begin, 0).rank;
}

ProjectedPairs KrylovSpace::solve() const {
  const auto [values, coefficients] = at::linalg_eigh(coupling(0, size_, 0, size_));
  const at::Tensor residuals = coupling(size_, width_, 0, size_).mm(coefficients);
  return {to_host_vector(values), coefficients, column_norms(residuals)};
}

at::Tensor KrylovSpace::ritz_vectors(const at::Tensor& coefficients) const {
  // Of zeros: fresh pages come several times as fast one after another as by pieces of rows.
  at::Tensor vectors = at::zeros({coefficients.size(1), buffer_.size(1)}, buffer_.options());
  combine(rows(0, size_).t(), coefficients, vectors.t());
  return vectors.t();
}

void KrylovSpace::restart(const ProjectedPairs& pairs, const std::vector<int64_t>& kept) {
  const auto count = static_cast<int64_t>(kept.size());
  const at::Tensor indices = at::tensor(kept, at::kLong);
  const at::Tensor coefficients = pairs.coefficients.index_select(1, indices);
  const at::Tensor arrow = coupling(size_, width_, 0, size_).mm(coefficients);
  combine(rows(0, size_).t(), coefficients, rows(0, count).t());
  rows(count, count + width_).copy_(rows(size_, size_ + width_));
  projection_.zero_();
  coupling(0, count, 0, count)
      .diagonal()
      .copy_(at::tensor(pairs.values, at::kDouble).index_select(0, indices));
  coupling(count, width_, 0, count).copy_(arrow);
  coupling(0, count, count, width_).copy_(arrow.t());
  size_ = count;
  coupled_from_ = 0;
}

void KrylovSpace::restart_randomly(const ProjectedPairs& pairs, const std::vector<int64_t>& kept) {
  width_ = 0;
  restart(pairs, kept);
  coupled_from_ = size_;
  fill_up();
}

}  // namespace curvature::detail
