#include "optim/random_part.hpp"

#include <cmath>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros_like.h>

namespace curvature::optim::detail {
namespace {

/// The weights of all examples that count, 0 for the others, float64 on the CPU.
at::Tensor counting_weights(const EmpiricalRisk& risk) {
  TensorList weights;
  for (int64_t index = 0; index < risk.data().num_batches(); ++index) {
    const Batch batch = risk.data().batch(index);
    const at::Tensor terms = risk.loss_function().normalizers(batch.targets).cpu();
    const at::Tensor given =
        batch.weights.defined() ? batch.weights.to(at::kCPU, at::kDouble) : at::full_like(terms, 1);
    weights.push_back(given * terms.ne(0));
  }
  return at::cat(weights);
}

Batch rows_of(const Batch& batch, const at::Tensor& positions) {
  const auto cut = [&](const at::Tensor& all) {
    return all.defined() ? all.index_select(0, positions.to(all.device())) : all;
  };
  Batch part;
  for (const at::Tensor& input : batch.inputs) part.inputs.push_back(cut(input));
  part.targets = cut(batch.targets);
  part.weights = cut(batch.weights);
  return part;
}

/// The examples at which `is_chosen` `[N]`, batch by batch.
DatasetPtr chosen_examples(const Dataset& data, const at::Tensor& is_chosen) {
  std::vector<Batch> batches;
  int64_t begin = 0;
  for (int64_t index = 0; index < data.num_batches(); ++index) {
    const Batch batch = data.batch(index);
    const at::Tensor positions = is_chosen.narrow(0, begin, batch.size()).nonzero().squeeze(1);
    if (positions.size(0) > 0) batches.push_back(rows_of(batch, positions));
    begin += batch.size();
  }
  return batch_dataset(std::move(batches));
}

}  // namespace

Part random_part(const EmpiricalRisk& risk, double fraction, const RandomSource& random,
                 uint64_t stream) {
  if (fraction == 1) return {.risk = risk};
  const at::Tensor weights = counting_weights(risk);
  const at::Tensor candidates = weights.nonzero().squeeze(1);
  // 0.1 * 30 is a little more than 3.
  const double share = fraction * static_cast<double>(candidates.size(0)) * (1 - 1e-12);
  const auto count = static_cast<int64_t>(std::ceil(share));
  const at::Tensor order = random.uniform(stream, candidates.size(0))
                               .argsort(/*stable=*/true, /*dim=*/0, /*descending=*/false);
  const at::Tensor chosen = candidates.index_select(0, order.narrow(0, 0, count));
  at::Tensor is_chosen = at::zeros_like(weights, weights.options().dtype(at::kBool));
  is_chosen.index_fill_(0, chosen, 1);
  TensorList totals = {at::stack({weights.sum(), weights.index_select(0, chosen).sum()})};
  risk.reducer().sum(totals);
  return {
      .risk = risk.with_data(chosen_examples(risk.data(), is_chosen), risk.options().first_example),
      .scale = risk.options().reduction == Reduction::kMean
                   ? 1
                   : (totals[0][0] / totals[0][1]).item<double>()};
}

}  // namespace curvature::optim::detail
