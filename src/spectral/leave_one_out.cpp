#include "spectral/leave_one_out.hpp"

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/linalg_qr.h>
#include <ATen/ops/linalg_svd.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros.h>

namespace curvature::detail {
namespace {

at::Tensor small(const at::Tensor& x) { return x.to(at::kCPU, at::kDouble); }

}  // namespace

void RangeSketch::append(const at::Tensor& omega, const at::Tensor& y) {
  if (!q_.defined()) {
    const auto [q, r] = at::linalg_qr(y);
    omega_ = omega, y_ = y, q_ = q, r_ = small(r);
    return;
  }
  // Gram-Schmidt against the columns before, and once more after a QR decomposition, which fills in
  // arbitrary directions where nothing but rounding is left.
  const at::Tensor coupling = q_.t().matmul(y);
  const auto [first, first_r] = at::linalg_qr(y - q_.matmul(coupling));
  const at::Tensor correction = q_.t().matmul(first);
  const auto [second, second_r] = at::linalg_qr(first - q_.matmul(correction));
  const at::Tensor top = small(coupling + correction.matmul(first_r));
  const at::Tensor bottom = small(second_r.matmul(first_r));
  const at::Tensor zeros = at::zeros({y.size(1), size()}, r_.options());
  r_ = at::cat({at::cat({r_, top}, 1), at::cat({zeros, bottom}, 1)}, 0);
  omega_ = at::cat({omega_, omega}, 1);
  y_ = at::cat({y_, y}, 1);
  q_ = at::cat({q_, second}, 1);
}

LeaveOneOut leave_one_out(const at::Tensor& r, double tolerance) {
  const auto [u, singular_values, vh] = at::linalg_svd(r, /*full_matrices=*/false);
  const double largest = singular_values.max().item<double>();
  const int64_t rank =
      largest > 0 ? singular_values.gt(tolerance * largest).sum().item<int64_t>() : 0;
  const at::Tensor left = u.narrow(1, 0, rank);
  const at::Tensor right = vh.narrow(0, 0, rank);  // rows
  // Column i is needed if and only if the rows of V^T span e_i.
  const at::Tensor needed = right.square().sum(0).gt(1 - 1e-8);
  const at::Tensor s = left.matmul(right / singular_values.narrow(0, 0, rank).unsqueeze(1));
  const at::Tensor unit = s / s.norm(2, {0}, /*keepdim=*/true);
  return {.projector = left.matmul(left.t()),
          .directions = at::where(needed.unsqueeze(0), unit, at::zeros({1}, r.options())),
          .rank = rank,
          .redundant = !needed.any().item<bool>()};
}

}  // namespace curvature::detail
