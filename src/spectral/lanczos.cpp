#include <utility>

#include <curvature/spectral/lanczos.hpp>

#include "core/check.hpp"
#include "spectral/lockstep_lanczos.hpp"

namespace curvature {
namespace {

void check_arguments(const LinearOperator& a, const at::Tensor& start,
                     const LanczosOptions& options) {
  const OperatorSpec& spec = a.spec();
  CURVATURE_CHECK(a.is_symmetric(), NotSupportedError,
                  "lanczos: expected a symmetric operator, got {}", a.describe());
  CURVATURE_CHECK(spec.dtype == at::kDouble || spec.dtype == at::kFloat, NotSupportedError,
                  "lanczos: expected an operator in float32 or float64, got {} in {}", a.describe(),
                  c10::toString(spec.dtype));
  CURVATURE_CHECK(options.num_steps > 0, OptionError, "lanczos: num_steps must be positive; got {}",
                  options.num_steps);
  CURVATURE_CHECK(start.defined() && start.dim() == 1 && start.size(0) == a.rows(), ShapeError,
                  "lanczos: expected a start vector [{}], got {}", a.rows(),
                  start.defined() ? detail::to_string(start.sizes()) : "an undefined tensor");
  CURVATURE_CHECK(
      start.scalar_type() == spec.dtype && start.device() == spec.device, DtypeDeviceError,
      "lanczos: expected a start vector of {} on {}, got {} on {}; convert it with .to()",
      c10::toString(spec.dtype), spec.device.str(), c10::toString(start.scalar_type()),
      start.device().str());
}

}  // namespace

LanczosResult lanczos(const LinearOperator& a, const at::Tensor& start,
                      const LanczosOptions& options) {
  check_arguments(a, start, options);
  return std::move(detail::lockstep_lanczos(a, start.unsqueeze(1), options).front());
}

at::Tensor ritz_vectors(const LanczosResult& run, const RitzPairs& ritz, int64_t first,
                        int64_t count) {
  CURVATURE_CHECK(run.basis.defined(), OptionError,
                  "ritz_vectors: the Lanczos run kept no basis; reorthogonalize");
  CURVATURE_CHECK(first >= 0 && count >= 0 && first + count <= run.num_steps(), OptionError,
                  "ritz_vectors: expected a range within {} pairs, got first {} and count {}",
                  run.num_steps(), first, count);
  return run.basis.t().matmul(ritz.coefficients.narrow(1, first, count).to(run.basis.options()));
}

}  // namespace curvature
