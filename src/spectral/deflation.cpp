#include <ATen/ops/ones.h>

#include <curvature/operators/algebra.hpp>
#include <curvature/operators/decorators.hpp>
#include <curvature/operators/low_rank.hpp>
#include <curvature/spectral/deflation.hpp>

#include "core/check.hpp"
#include "spectral/sampling.hpp"

namespace curvature {

OperatorPtr deflated(const OperatorPtr& a, const at::Tensor& vectors) {
  CURVATURE_CHECK(a != nullptr, OptionError, "deflated: the operator is null");
  CURVATURE_CHECK(a->is_symmetric(), NotSupportedError,
                  "deflated: expected a symmetric operator, got {}", a->describe());
  CURVATURE_CHECK(vectors.dim() == 2 && vectors.size(0) == a->rows(), ShapeError,
                  "deflated: expected vectors [{}, k], got {}", a->rows(),
                  detail::to_string(vectors.sizes()));
  CURVATURE_CHECK(vectors.scalar_type() == a->spec().dtype && vectors.device() == a->spec().device,
                  DtypeDeviceError, "deflated: expected vectors of {} on {}, got {} on {}",
                  c10::toString(a->spec().dtype), a->spec().device.str(),
                  c10::toString(vectors.scalar_type()), vectors.device().str());
  const OperatorPtr projection =
      low_rank_plus_diagonal(at::ones({a->rows()}, detail::options_of(*a)), vectors,
                             -at::ones({vectors.size(1)}, detail::options_of(*a)), a->spec().domain,
                             Symmetry::kPositiveSemidefinite);
  const bool semidefinite = a->spec().symmetry >= Symmetry::kPositiveSemidefinite;
  return declare_symmetry(product({projection, a, projection}),
                          semidefinite ? Symmetry::kPositiveSemidefinite : Symmetry::kSymmetric);
}

}  // namespace curvature
