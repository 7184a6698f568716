#include "spectral/shifted_product.hpp"

#include <cmath>

#include <ATen/ops/from_blob.h>

#include "core/check.hpp"

namespace curvature::detail {

void ShiftedProduct::project(at::Tensor& x) const {
  if (deflated_.defined()) x.addmv_(deflated_, deflated_.t().mv(x), 1, -1);
}

void ShiftedProduct::perform_op(const double* x, double* y) const {
  // from_blob wants a mutable pointer; only a copy of `x` is written to.
  const at::Tensor borrowed = at::from_blob(const_cast<double*>(x), {rows()}, at::kDouble);
  at::Tensor input = deflated_.defined() ? borrowed.clone() : borrowed;
  project(input);
  a_.perform_op(input.const_data_ptr<double>(), y);
  at::Tensor output = at::from_blob(y, {rows()}, at::kDouble);
  CURVATURE_CHECK(std::isfinite(output.sum().item<double>()), NumericalError,
                  "eigenpairs: product {} is not finite", products());
  output.mul_(scale_).add_(input, shift_);
  project(output);
  if (observer_) observer_({"Lanczos products", products(), 0});
}

}  // namespace curvature::detail
