#include <utility>

#include <curvature/spectral/lanczos.hpp>

#include "core/check.hpp"
#include "spectral/lockstep_lanczos.hpp"

namespace curvature {
LanczosResult lanczos(const LinearOperator& a, const at::Tensor& start,
                      const LanczosOptions& options) {
  CURVATURE_CHECK(start.defined() && start.dim() == 1, ShapeError,
                  "lanczos: expected a start vector [{}], got {}", a.rows(),
                  start.defined() ? detail::to_string(start.sizes()) : "an undefined tensor");
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
