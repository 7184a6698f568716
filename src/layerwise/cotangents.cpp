#include "layerwise/cotangents.hpp"

#include <cmath>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

namespace curvature::detail {
namespace {

/// Independent of the draws of labels.
constexpr uint64_t kSigns = 1;

/// A random sign for each term and column, so that the cross terms of an example vanish in
/// expectation. Example by example: signs do not depend on the batch.
at::Tensor random_signs(const RandomSource& random, const BatchRisk& batch, int64_t terms,
                        int64_t columns) {
  const int64_t examples = batch.batch().size();
  TensorList signs;
  for (int64_t n = 0; n < examples; ++n) {
    const auto stream = static_cast<uint64_t>(batch.first_example() + n);
    signs.push_back(random.rademacher(stream, terms / examples * columns));
  }
  return at::cat(signs).reshape({terms, 1, columns});
}

/// `[R, C, V]`, unscaled.
at::Tensor vectors_of(const LossPoint& point, const BatchRisk& batch, const KfacOptions& options) {
  switch (options.fisher) {
    case Fisher::kMonteCarlo:
      return point.samples(options.random, batch.first_example(), batch.batch().size(),
                           options.mc_samples) /
             std::sqrt(static_cast<double>(options.mc_samples));
    case Fisher::kEmpirical:
      return point.gradient().unsqueeze(-1);
    case Fisher::kForwardOnly:
      return {};
    case Fisher::kType2:
      break;
  }
  const at::Tensor root = point.hessian_root();
  if (root.size(0) == batch.batch().size()) return root;
  return root * random_signs(options.random.derive(kSigns), batch, root.size(0), root.size(2))
                    .to(root.options());
}

}  // namespace

void for_each_cotangent(const EmpiricalRisk& risk, const BatchRisk& batch, const at::Tensor& output,
                        const KfacOptions& options,
                        const std::function<void(const at::Tensor&)>& visit) {
  const at::NoGradGuard no_grad;
  const at::Tensor vectors = vectors_of(*batch.loss_point(output), batch, options);
  if (!vectors.defined()) return;
  const at::Tensor weights = batch.term_weights(vectors.size(0)).sqrt();
  const at::Tensor scaled = vectors * (weights.dim() == 0 ? weights : weights.view({-1, 1, 1}));
  for (int64_t v = 0; v < scaled.size(2); ++v) {
    visit(risk.loss_function().unrows(scaled.select(2, v), output));
  }
}

}  // namespace curvature::detail
