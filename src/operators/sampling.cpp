#include <curvature/operators/sampling.hpp>

#include "core/check.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

at::Tensor draw(const OperatorPtr& root, const RandomSource& random, int64_t count, int64_t first) {
  return root->apply(
      draw_probes(random, Probe::kGaussian, root->cols(), first, count, detail::options_of(*root)));
}

}  // namespace

at::Tensor sample(const LinearOperator& a, const RandomSource& random, int64_t count,
                  int64_t first) {
  const OperatorPtr root = a.square_root_factor();
  CURVATURE_CHECK(root != nullptr, NotSupportedError,
                  "sample: {} has no square-root factor in closed form; sample from a structured "
                  "approximation of it (diagonal, Kronecker, low-rank)",
                  a.describe());
  return draw(root, random, count, first);
}

at::Tensor sample_inverse(const LinearOperator& a, const RandomSource& random, int64_t count,
                          int64_t first) {
  const OperatorPtr inverse = a.inverse();
  const OperatorPtr root = inverse ? inverse->square_root_factor() : nullptr;
  CURVATURE_CHECK(root != nullptr, NotSupportedError,
                  "sample_inverse: the inverse of {} has no square-root factor in closed form; "
                  "sample from a structured approximation of it (diagonal, Kronecker, low-rank)",
                  a.describe());
  return draw(root, random, count, first);
}

}  // namespace curvature
