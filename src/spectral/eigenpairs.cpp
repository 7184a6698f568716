#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/linalg_eigh.h>

#include <curvature/spectral/eigenpairs.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "spectral/eigen_support.hpp"
#include "spectral/sampling.hpp"
#include "spectral/thick_restart.hpp"

namespace curvature {
namespace {

constexpr const char* kEigenpairs = "eigenpairs";
constexpr int64_t kDenseSize = 256;    // up to here, n products cost less than restarts
constexpr int64_t kExtraVectors = 20;  // of the Krylov space, beyond twice the wanted pairs

int64_t basis_size(const EigenpairsOptions& options) {
  return options.max_basis.value_or(2 * (options.count + options.count_bottom) + kExtraVectors);
}

void check_start(const LinearOperator& a, const at::Tensor& start) {
  CURVATURE_CHECK(start.dim() == 1 && start.size(0) == a.rows(), ShapeError,
                  "{}: expected a start vector [{}], got {}", kEigenpairs, a.rows(),
                  detail::to_string(start.sizes()));
  const OperatorSpec& spec = a.spec();
  CURVATURE_CHECK(start.scalar_type() == spec.dtype && start.device() == spec.device,
                  DtypeDeviceError,
                  "{}: expected a start vector of {} on {}, got {} on {}; convert it with .to()",
                  kEigenpairs, c10::toString(spec.dtype), spec.device.str(),
                  c10::toString(start.scalar_type()), start.device().str());
  const double largest = start.abs().max().item<double>();
  CURVATURE_CHECK(std::isfinite(largest), NumericalError, "{}: the start vector is not finite",
                  kEigenpairs);
  CURVATURE_CHECK(largest > 0, OptionError, "{}: the start vector is zero", kEigenpairs);
}

void check_options(const LinearOperator& a, const EigenpairsOptions& options) {
  detail::check_symmetric(a, kEigenpairs);
  detail::check_selection(a, kEigenpairs, options.count, options.count_bottom, options.order);
  detail::check_iteration(kEigenpairs, options.tolerance, options.max_restarts);
  detail::check_basis(a, kEigenpairs, options.count + options.count_bottom, /*block_size=*/1,
                      basis_size(options));
  if (options.start.defined()) check_start(a, options.start);
}

/// A part of the pairs of a dense matrix, in the operator's dtype, on its device.
Eigenpairs select(const LinearOperator& a, const at::Tensor& values, const at::Tensor& vectors,
                  const at::Tensor& numbers) {
  const at::Tensor chosen = vectors.index_select(1, numbers).to(detail::tensor_options(a));
  return {detail::to_host_vector(values.index_select(0, numbers)), chosen.contiguous(), {}};
}

EigenpairsResult dense_eigenpairs(const LinearOperator& a, const EigenpairsOptions& options) {
  const int64_t n = a.rows();
  if (options.observer) options.observer({"Dense matrix", 0, n});
  const at::Tensor matrix = materialize(a).to(at::kDouble);
  if (options.observer) options.observer({"Dense matrix", n, n});
  CURVATURE_CHECK(detail::is_finite(matrix), NumericalError, "{}: the matrix of {} is not finite",
                  kEigenpairs, a.describe());
  const auto [values, vectors] = at::linalg_eigh((matrix + matrix.t()) / 2);

  const at::Tensor magnitudes = values.abs();
  const at::Tensor& key = options.order == EigenvalueOrder::kMagnitude ? magnitudes : values;
  const at::Tensor descending = key.argsort(/*stable=*/true, /*dim=*/0, /*descending=*/true);
  const at::Tensor ascending = values.argsort(/*stable=*/true);
  EigenpairsResult result{.products = n, .dense = true};
  result.top = select(a, values, vectors, descending.narrow(0, 0, options.count));
  result.bottom = select(a, values, vectors, ascending.narrow(0, 0, options.count_bottom));
  detail::measure_residuals(a, result);
  const double allowed =
      detail::tolerance_of(a, options.tolerance) * magnitudes.max().item<double>();
  result.termination = detail::judge_residuals(allowed, result);
  return result;
}

EigenpairsResult iterate_eigenpairs(const LinearOperator& a, const EigenpairsOptions& options) {
  return detail::thick_restart_eigenpairs(a,
                                          {.who = kEigenpairs,
                                           .count = options.count,
                                           .count_bottom = options.count_bottom,
                                           .order = options.order,
                                           .block_size = 1,
                                           .max_basis = basis_size(options),
                                           .tolerance = detail::tolerance_of(a, options.tolerance),
                                           .max_restarts = options.max_restarts,
                                           .find_copies = options.find_copies,
                                           .verify = options.verify,
                                           .start = options.start,
                                           .random = options.random,
                                           .observer = options.observer});
}

}  // namespace

EigenpairsResult eigenpairs(const LinearOperator& a, const EigenpairsOptions& options) {
  check_options(a, options);
  const at::NoGradGuard no_grad;
  const int64_t total = options.count + options.count_bottom;
  const bool dense = a.rows() <= kDenseSize || total > a.rows() / 4;
  return dense ? dense_eigenpairs(a, options) : iterate_eigenpairs(a, options);
}

EigenpairsResult eigenpairs(const OperatorPtr& a, const EigenpairsOptions& options) {
  CURVATURE_CHECK(a != nullptr, OptionError, "{}: the operator is null", kEigenpairs);
  return eigenpairs(*a, options);
}

}  // namespace curvature
