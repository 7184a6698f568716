// J^T M J as U U^T, the columns of U being gradients of single loss terms.

#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/full.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>

#include <curvature/core/memory.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/low_rank.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "matrix_free/curvature_operator.hpp"
#include "matrix_free/pullback.hpp"

namespace curvature {
namespace {

/// The columns as rows `[count, D]`, of zeros.
at::Tensor room_for(int64_t count, const Space& space, const at::TensorOptions& options,
                    const char* who) {
  // The inverse of U U^T + damping has a copy of U, and needs another while it is made; so does the
  // matrix U^T U.
  const double bytes = 3.0 * static_cast<double>(count) *
                       static_cast<double>(space.size() + count) *
                       static_cast<double>(options.dtype().itemsize());
  const auto free = static_cast<double>(available_memory(options.device()));
  CURVATURE_CHECK(bytes <= free, OptionError,
                  "{}: U [{}, {}] and what its inverse takes are {:.1f} GB and {:.1f} GB are free; "
                  "use fewer examples, or the matrix-free operator",
                  who, space.size(), count, bytes / 1e9, free / 1e9);
  return at::zeros({count, space.size()}, options);
}

OperatorPtr low_rank(const EmpiricalRisk& risk, const MatrixFreeOptions& options,
                     const detail::Cotangents& cotangents, double weight_decay, const char* who) {
  CURVATURE_CHECK(options.blocks == Blocks::kFull, OptionError,
                  "{}: blocks of parameters are not kept apart; expected Blocks::kFull", who);
  const int64_t examples = risk.num_local_examples();
  CURVATURE_CHECK(examples == risk.num_examples(), NotSupportedError,
                  "{}: the examples must be of one worker; expected {}, got {}", who,
                  risk.num_examples(), examples);
  const OperatorSpec spec = detail::parameter_spec(risk, Symmetry::kPositiveSemidefinite);
  const at::TensorOptions numbers = at::TensorOptions(spec.dtype).device(spec.device);
  at::Tensor rows = at::zeros({0, spec.domain.size()}, numbers);
  int64_t count = 0;
  detail::for_each_pullback(
      risk, cotangents, options.observer, who, [&](const detail::Pullback& pullback) {
        if (count == rows.size(0)) {  // at first, and where examples have more terms than before
          at::Tensor more =
              room_for(examples * pullback.vectors_per_example, spec.domain, numbers, who);
          more.narrow(0, 0, count).copy_(rows);
          rows = std::move(more);
        }
        const at::Tensor row = rows[count++];
        for (size_t i = 0; i < pullback.gradient.size(); ++i) {
          const at::Tensor& part = pullback.gradient[i];
          if (!part.defined()) continue;
          const SpaceEntry& entry = spec.domain.entries()[i];
          row.narrow(0, entry.offset, entry.size)
              .copy_(part.reshape(-1))
              .mul_(std::sqrt(pullback.weight));
        }
      });
  rows = rows.narrow(0, 0, count);
  CURVATURE_CHECK(detail::is_finite(rows), NumericalError, "{}: a gradient is not finite", who);
  return low_rank_plus_diagonal(at::full({spec.domain.size()}, weight_decay, numbers), rows.t(),
                                at::ones({count}, numbers), spec.domain, spec.symmetry);
}

}  // namespace

OperatorPtr ggn_low_rank(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  return low_rank(risk, options, detail::hessian_cotangents(), risk.options().weight_decay,
                  "ggn_low_rank");
}

OperatorPtr ggn_mc_low_rank(const EmpiricalRisk& risk, const MonteCarloOptions& monte_carlo,
                            const MatrixFreeOptions& options) {
  return low_rank(risk, options, detail::sampled_cotangents(monte_carlo, /*terms_apart=*/true),
                  risk.options().weight_decay, "ggn_mc_low_rank");
}

OperatorPtr empirical_fisher_low_rank(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  return low_rank(risk, options, detail::gradient_cotangents(), /*weight_decay=*/0,
                  "empirical_fisher_low_rank");
}

}  // namespace curvature
