#include "matrix_free/linearization.hpp"

#include <map>
#include <numeric>
#include <optional>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include "core/check.hpp"
#include "core/fast_kernels.hpp"
#include "core/translate.hpp"
#include "matrix_free/math_attention.hpp"

namespace curvature::detail {

Partition partition(const Space& space, Blocks blocks) {
  Partition partition;
  if (blocks == Blocks::kFull) {
    partition.emplace_back(space.entries().size());
    std::iota(partition.front().begin(), partition.front().end(), 0);
    return partition;
  }
  std::map<std::string, size_t> block_of;
  for (size_t i = 0; i < space.entries().size(); ++i) {
    const std::string& name = space.entries()[i].name;
    const size_t dot = name.rfind('.');
    const std::string owner = dot == std::string::npos ? "" : name.substr(0, dot);
    const auto [found, is_new] =
        block_of.insert({blocks == Blocks::kLayer ? owner : name, partition.size()});
    if (is_new) partition.emplace_back();
    partition[found->second].push_back(i);
  }
  return partition;
}

TensorList vector_jacobian_product(const TensorList& outputs, const TensorList& inputs,
                                   const TensorList& cotangents) {
  // An output that does not depend on any input has no graph and contributes nothing.
  TensorList with_graph, used;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].defined() || !outputs[i].requires_grad()) continue;
    with_graph.push_back(outputs[i]);
    used.push_back(cotangents[i]);
  }
  const FastKernels fast;
  if (with_graph.empty()) return TensorList(inputs.size());
  return torch::autograd::grad(with_graph, inputs, used, /*retain_graph=*/true,
                               /*create_graph=*/false, /*allow_unused=*/true);
}

OutputLinearization::OutputLinearization(const BatchRisk& batch, const TensorList& parameters)
    : parameters_(parameters) {
  const FastKernels fast;
  const c10::InferenceMode no_inference(false);
  const at::AutoGradMode with_gradients(true);
  {
    const MathAttentionGuard math_attention;
    output_ = batch.predict();
  }
  CURVATURE_CHECK(at::isfinite(output_.detach()).all().item<bool>(), NumericalError,
                  "linearisation: the model's output is not finite for the batch that begins with "
                  "example {}",
                  batch.first_example());
  cotangent_ = at::zeros_like(output_.detach()).requires_grad_();
  pullback_.resize(parameters.size());
  if (!output_.requires_grad()) return;
  pullback_ = torch::autograd::grad({output_}, parameters, {cotangent_}, /*retain_graph=*/true,
                                    /*create_graph=*/true, /*allow_unused=*/true);
}

at::Tensor OutputLinearization::jvp(const std::vector<size_t>& block, const TensorList& v) const {
  TensorList pullback;
  for (const size_t i : block) pullback.push_back(pullback_[i]);
  const at::Tensor product = vector_jacobian_product(pullback, {cotangent_}, v).front();
  return product.defined() ? product : at::zeros_like(output_.detach());
}

TensorList OutputLinearization::vjp(const std::vector<size_t>& block, const at::Tensor& w) const {
  TensorList inputs;
  for (const size_t i : block) inputs.push_back(parameters_[i]);
  return vector_jacobian_product({output_}, inputs, {w});
}

ColumnSums::ColumnSums(const Space& space, int64_t num_columns)
    : space_(space),
      columns_(static_cast<size_t>(num_columns), TensorList(space.entries().size())) {}

void ColumnSums::add(int64_t column, const std::vector<size_t>& block, TensorList part) {
  TensorList& sums = columns_[static_cast<size_t>(column)];
  for (size_t i = 0; i < block.size(); ++i) {
    at::Tensor& sum = sums[block[i]];
    if (!part[i].defined()) continue;
    if (sum.defined()) {
      sum.add_(part[i]);
    } else {
      // A gradient may be a view of the operand; only memory of its own may be added to.
      const bool owned =
          part[i].use_count() == 1 && part[i].storage().use_count() == 1 && part[i].is_contiguous();
      sum = owned ? std::move(part[i]) : part[i].clone(at::MemoryFormat::Contiguous);
    }
  }
}

TensorList ColumnSums::result(const at::TensorOptions& options) && {
  TensorList joined;
  for (size_t i = 0; i < space_.entries().size(); ++i) {
    const Shape& shape = space_.entries()[i].shape;
    TensorList parts;
    for (TensorList& column : columns_) {
      parts.push_back(column[i].defined() ? std::move(column[i]) : at::zeros(shape, options));
    }
    if (parts.empty()) {
      Shape empty = shape;
      empty.push_back(0);
      joined.push_back(at::zeros(empty, options));
    } else {
      // Columns stay contiguous; a flat view is one transposition.
      joined.push_back(parts.size() == 1 ? parts.front().unsqueeze(-1)
                                         : at::stack(parts, 0).movedim(0, -1));
    }
  }
  return joined;
}

Columns::Columns(const TensorList& x) : size_(x.front().size(-1)) {
  for (const at::Tensor& tensor : x) rows_.push_back(tensor.movedim(-1, 0).contiguous());
}

TensorList Columns::at(int64_t k, const std::vector<size_t>& block) const {
  TensorList column;
  for (const size_t i : block) column.push_back(rows_[i].select(0, k));
  return column;
}

int64_t budget_bytes(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  const int64_t bytes =
      options.memory_budget.value_or(default_memory_budget(risk.parameters().front().device()));
  CURVATURE_CHECK(bytes >= 0, OptionError, "memory_budget must not be negative; got {}", bytes);
  return bytes;
}

}  // namespace curvature::detail
