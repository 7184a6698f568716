#include "core/one_dnn_products.hpp"

#include <ATen/ops/addmm.h>
#include <ATen/ops/mm.h>
#include <torch/library.h>

#include "core/matrix_product.hpp"

namespace curvature::detail {
namespace {

thread_local bool is_on = false;

/// What comes after this library's kernels.
c10::DispatchKeySet rest_of(c10::DispatchKeySet keys) {
  return keys &
         c10::DispatchKeySet(c10::DispatchKeySet::FULL_AFTER, c10::DispatchKey::BackendSelect);
}

at::Tensor mm(c10::DispatchKeySet keys, const at::Tensor& a, const at::Tensor& b) {
  if (is_on && is_for_one_dnn(a, b)) return by_one_dnn(a, b);
  return at::_ops::mm::redispatch(rest_of(keys), a, b);
}

at::Tensor addmm(c10::DispatchKeySet keys, const at::Tensor& input, const at::Tensor& a,
                 const at::Tensor& b, const at::Scalar& beta, const at::Scalar& alpha) {
  const bool plain = beta.toDouble() == 1 && alpha.toDouble() == 1;
  if (is_on && plain && input.scalar_type() == at::kFloat && is_for_one_dnn(a, b)) {
    return by_one_dnn(a, b).add_(input);
  }
  return at::_ops::addmm::redispatch(rest_of(keys), input, a, b, beta, alpha);
}

}  // namespace

OneDnnProducts::OneDnnProducts() : before_(is_on) { is_on = true; }
OneDnnProducts::~OneDnnProducts() { is_on = before_; }

/// The last stop before the CPU's own kernels that every product passes; others go straight on.
TORCH_LIBRARY_IMPL(aten, BackendSelect, library) {
  library.impl("mm", &mm);
  library.impl("addmm", &addmm);
}

}  // namespace curvature::detail
