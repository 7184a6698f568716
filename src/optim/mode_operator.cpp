#include "optim/mode_operator.hpp"

#include <algorithm>

#include <ATen/ops/diag.h>

#include <curvature/operators/diagonal.hpp>
#include <curvature/operators/function_operator.hpp>
#include <curvature/operators/kronecker.hpp>

#include "optim/mode_algebra.hpp"

namespace curvature::optim {

namespace {

/// Short diagonals as matrices, for the closed forms of a Kronecker product.
std::vector<at::Tensor> with_short_matrices(const std::vector<at::Tensor>& factors) {
  constexpr int64_t kShort = 1024;
  std::vector<at::Tensor> result = factors;
  for (at::Tensor& factor : result) {
    if (factor.dim() == 1 && factor.size(0) <= kShort) factor = at::diag(factor);
  }
  return result;
}

}  // namespace

at::Tensor at_least_single(const at::Tensor& x) {
  return x.to(c10::promoteTypes(x.scalar_type(), at::kFloat));
}

OperatorPtr mode_operator(std::vector<at::Tensor> given) {
  for (at::Tensor& factor : given) factor = at_least_single(factor);
  const auto num_axes_is = [](int64_t count) {
    return [count](const at::Tensor& factor) { return factor.dim() == count; };
  };
  if (std::all_of(given.begin(), given.end(), num_axes_is(1))) {
    return curvature::diagonal(outer_product(given).flatten());
  }
  const std::vector<at::Tensor> factors = with_short_matrices(given);
  if (std::all_of(factors.begin(), factors.end(), num_axes_is(2))) {
    return kronecker(factors, Symmetry::kPositiveDefinite);
  }
  Shape shape = {};
  int64_t size = 1;
  for (const at::Tensor& factor : factors) {
    shape.push_back(factor.size(0));
    size *= factor.size(0);
  }
  shape.push_back(-1);
  const auto apply = [factors, shape](const at::Tensor& x) {
    at::Tensor y = x.reshape(shape).clone();
    for (size_t i = 0; i < factors.size(); ++i) {
      if (factors[i].dim() == 1) {
        scale_mode(y, factors[i], i);
      } else {
        y = mode_product(y, factors[i], i);
      }
    }
    return y.reshape(x.sizes());
  };
  const at::Tensor& first = factors.front();
  return function_operator({.domain = Space::flat(size),
                            .range = Space::flat(size),
                            .dtype = first.scalar_type(),
                            .device = first.device(),
                            .symmetry = Symmetry::kPositiveDefinite},
                           MatrixMap(apply));
}

}  // namespace curvature::optim
