#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>

#include <curvature/core/space.hpp>

#include "core/matrix_product.hpp"
#include "layerwise/gram.hpp"
#include "optim/mode_algebra.hpp"

namespace curvature::optim {

at::Tensor around(const at::Tensor& x, size_t mode) {
  int64_t before = 1, after = 1;
  for (int64_t i = 0; i < x.dim(); ++i) {
    if (i < static_cast<int64_t>(mode)) before *= x.size(i);
    if (i > static_cast<int64_t>(mode)) after *= x.size(i);
  }
  return x.reshape({before, x.size(static_cast<int64_t>(mode)), after});
}

namespace {

/// F times each of the matrices `[before, length, after]`.
at::Tensor many_products(const at::Tensor& f, const at::Tensor& blocks) {
  if (!curvature::detail::is_for_one_dnn(f, blocks[0])) return at::matmul(f, blocks);
  at::Tensor product = at::empty({blocks.size(0), f.size(0), blocks.size(2)}, blocks.options());
  for (int64_t i = 0; i < blocks.size(0); ++i)
    product[i].copy_(curvature::detail::matrix_product(f, blocks[i]));
  return product;
}

}  // namespace

at::Tensor mode_product(const at::Tensor& x, const at::Tensor& f, size_t mode) {
  const at::Tensor blocks = around(x, mode);
  const int64_t before = blocks.size(0), length = blocks.size(1), after = blocks.size(2);
  at::Tensor product;
  if (before == 1) {
    product = curvature::detail::matrix_product(f, blocks.view({length, after}));
  } else if (after == 1) {
    product = curvature::detail::matrix_product(blocks.view({before, length}), f.t());
  } else {
    product = many_products(f, blocks);
  }
  Shape shape = x.sizes().vec();
  shape[mode] = f.size(0);
  return product.view(shape);
}

at::Tensor along_mode(const at::Tensor& vector, size_t mode, size_t num_modes) {
  Shape shape(num_modes, 1);
  shape[mode] = vector.numel();
  return vector.view(shape);
}

void scale_mode(at::Tensor& x, const at::Tensor& factors, size_t mode) {
  x.mul_(along_mode(factors, mode, static_cast<size_t>(x.dim())));
}

at::Tensor select_along_mode(const at::Tensor& x, const at::Tensor& order, size_t mode) {
  // LibTorch is fast along the second axis, and up to twenty times as slow along later ones.
  return around(x, mode).index_select(1, order).view(x.sizes());
}

void add_mode_gram(at::Tensor& lower, const at::Tensor& x, size_t mode, double beta) {
  curvature::detail::add_gram(lower, around(x, mode).transpose(1, 2), beta);
}

at::Tensor mode_gram(const at::Tensor& x, size_t mode) {
  const int64_t d = x.size(static_cast<int64_t>(mode));
  at::Tensor gram = at::zeros({d, d}, x.options());
  add_mode_gram(gram, x, mode);
  curvature::detail::mirror_lower(gram);
  return gram;
}

at::Tensor sum_other_modes(const at::Tensor& x, size_t mode) { return around(x, mode).sum({0, 2}); }

at::Tensor outer_product(const std::vector<at::Tensor>& vectors) {
  at::Tensor product = along_mode(vectors.front(), 0, vectors.size());
  for (size_t i = 1; i < vectors.size(); ++i) {
    product = product * along_mode(vectors[i], i, vectors.size());
  }
  return product;
}

}  // namespace curvature::optim
