#include <algorithm>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <curvature/core/memory.hpp>
#include <curvature/layerwise/gradient_gram.hpp>

#include "core/check.hpp"
#include "layerwise/gradient_moments.hpp"

namespace curvature {
namespace {

/// `[K, D]`
at::Tensor flat(const TensorList& gradients) {
  TensorList parts;
  for (const at::Tensor& gradient : gradients) parts.push_back(gradient.flatten(1));
  return at::cat(parts, 1);
}

/// Fills rows (and columns) `first`, ... of the Gram matrix from there on, as many as `rows` holds.
void add_rows(const EmpiricalRisk& risk, const Observer& observer, int64_t first, at::Tensor rows,
              at::Tensor& gram) {
  const int64_t behind = first + rows.size(0);
  int64_t begin = 0;  // of the chunk
  detail::for_each_gradient_chunk(risk, observer, [&](const TensorList& gradients) {
    const at::Tensor chunk = flat(gradients);
    const int64_t end = begin + chunk.size(0);
    const auto part = [&](int64_t from, int64_t to) {
      return chunk.narrow(0, from - begin, to - from);
    };
    const int64_t from = std::max(begin, first), to = std::min(end, behind);
    if (from < to) rows.narrow(0, from - first, to - from).copy_(part(from, to));
    const int64_t rest = std::max(begin, behind);
    if (rest < end) {
      const at::Tensor products = rows.mm(part(rest, end).t());
      gram.narrow(0, first, rows.size(0)).narrow(1, rest, end - rest).copy_(products);
      gram.narrow(1, first, rows.size(0)).narrow(0, rest, end - rest).copy_(products.t());
    }
    begin = end;
  });
  gram.narrow(0, first, rows.size(0)).narrow(1, first, rows.size(0)).copy_(rows.mm(rows.t()));
}

}  // namespace

at::Tensor gradient_gram(const EmpiricalRisk& risk, const GradientGramOptions& options) {
  const auto tensor_options = risk.parameters().front().options().requires_grad(false);
  const int64_t budget =
      options.memory_budget.value_or(default_memory_budget(tensor_options.device()));
  CURVATURE_CHECK(budget >= 0, OptionError,
                  "GradientGramOptions: memory_budget must be >= 0; got {}", budget);
  const at::NoGradGuard no_grad;
  const int64_t size = risk.space().size(), count = risk.num_local_examples();
  const int64_t at_once = std::clamp<int64_t>(budget / std::max<int64_t>(8 * size, 1), 1, count);
  at::Tensor gram = at::empty({count, count}, tensor_options);
  for (int64_t first = 0; first < count; first += at_once) {
    const at::Tensor rows =
        at::empty({std::min(at_once, count - first), size}, tensor_options.dtype(at::kDouble));
    add_rows(risk, options.observer, first, rows, gram);
  }
  return gram;
}

}  // namespace curvature
