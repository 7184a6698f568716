#include <ATen/ops/from_blob.h>

#include <curvature/operators/host_product.hpp>

#include "operators/support.hpp"

namespace curvature {
namespace {

/// An array of the caller as a tensor; operands are not written to.
at::Tensor view_host_array(const double* data, int64_t size) {
  return at::from_blob(const_cast<double*>(data), {size}, at::kDouble);
}

}  // namespace

HostProduct::HostProduct(OperatorPtr a) : operator_(std::move(a)) {
  detail::check_not_null(operator_, "HostProduct");
}

void HostProduct::perform_op(const double* x, double* y) const {
  ++num_products_;
  const at::Tensor operand = view_host_array(x, cols()).to(detail::options_of(*operator_));
  view_host_array(y, rows()).copy_(operator_->apply(operand));
}

void HostProduct::perform_adjoint_op(const double* x, double* y) const {
  ++num_products_;
  const at::Tensor operand = view_host_array(x, rows()).to(detail::options_of(*operator_));
  view_host_array(y, cols()).copy_(operator_->apply_adjoint(operand));
}

}  // namespace curvature
