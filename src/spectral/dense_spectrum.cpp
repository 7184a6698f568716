#include "spectral/dense_spectrum.hpp"

#include <algorithm>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/linalg_eigvalsh.h>

#include <curvature/core/memory.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "spectral/sampling.hpp"

namespace curvature::detail {

void check_options(const ExactOptions& options, std::string_view who) {
  CURVATURE_CHECK(options.columns_at_once > 0, OptionError,
                  "{}: columns_at_once must be positive; got {}", who, options.columns_at_once);
}

at::Tensor symmetric_matrix(const LinearOperator& a, const ExactOptions& options,
                            std::string_view who) {
  const int64_t n = a.rows();
  const double bytes = 16.0 * static_cast<double>(n) * static_cast<double>(n);
  CURVATURE_CHECK(bytes < static_cast<double>(available_memory(a.spec().device)), NotSupportedError,
                  "{}: the matrix of {} needs {:.1f} GiB, more than there are; use a method that "
                  "needs products only",
                  who, a.describe(), bytes / 0x1p30);
  at::Tensor matrix = at::empty({n, n}, options_of(a).dtype(at::kDouble));
  for (int64_t first = 0; first < n; first += options.columns_at_once) {
    const int64_t count = std::min(options.columns_at_once, n - first);
    matrix.narrow(1, first, count).copy_(a.apply(identity_columns(n, first, count, options_of(a))));
    if (options.observer) options.observer({"Dense matrix", first + count, n});
  }
  CURVATURE_CHECK(detail::is_finite(matrix), NumericalError, "{}: the matrix of {} is not finite",
                  who, a.describe());
  return matrix.add_(matrix.t().clone()).div_(2);
}

Spectrum spectrum_of(const LinearOperator& a, const ExactOptions& options, std::string_view who) {
  CURVATURE_CHECK(a.is_symmetric(), NotSupportedError, "{}: expected a symmetric operator, got {}",
                  who, a.describe());
  const at::NoGradGuard no_grad;
  if (const auto eigenvalues = a.eigenvalues()) return {to_host_vector(*eigenvalues), 0};
  return {to_host_vector(at::linalg_eigvalsh(symmetric_matrix(a, options, who))), a.rows()};
}

}  // namespace curvature::detail
