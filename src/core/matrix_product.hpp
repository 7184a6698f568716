#pragma once

#include <cstdint>
#include <functional>

#include <ATen/core/Tensor.h>

namespace curvature::detail {

/// a b for matrices `[m, k]` and `[k, n]`. Large ones in float32 go through oneDNN, which LibTorch
/// uses for convolutions but not for matrices, where that is faster than LibTorch's BLAS: on
/// processors with AVX-512 twice as fast as MKL, which does not use it on AMD's. No graph is
/// recorded.
at::Tensor matrix_product(const at::Tensor& a, const at::Tensor& b);
/// The same, possibly with gaps between rows, which then begin whole vectors apart: where n is no
/// multiple of one, MKL without AVX-512 makes such a product in half to two thirds of the time.
at::Tensor padded_product(const at::Tensor& a, const at::Tensor& b);
/// sum <- beta sum + a b; a beta of 0 does not read the sum.
void add_matrix_product(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b, double beta = 1);

/// The lower triangle `[n, n]`, which is what LAPACK reads, of a product that is known to be
/// symmetric, strip by strip of columns: `strip(begin, count)` gives rows from `begin` on of
/// `count` columns. Above the blocks on the diagonal are zeros.
at::Tensor symmetric_by_strips(
    int64_t n, int64_t width, const at::TensorOptions& options,
    const std::function<at::Tensor(int64_t begin, int64_t count)>& strip);

/// Whether this processor has AVX-512.
bool has_avx512();

/// Whether a product is large and float32 on a CPU, and oneDNN is there and faster.
bool is_for_one_dnn(const at::Tensor& a, const at::Tensor& b);
/// a b by oneDNN, for what `is_for_one_dnn` allows.
at::Tensor by_one_dnn(const at::Tensor& a, const at::Tensor& b);

}  // namespace curvature::detail
