#include "matrix_free/linearization.hpp"

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/engine.h>

#include "core/check.hpp"
#include "core/densified.hpp"
#include "core/fast_kernels.hpp"
#include "core/finite.hpp"
#include "core/translate.hpp"
#include "core/transposition.hpp"
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

GraphEdges graph_edges(const TensorList& outputs) {
  GraphEdges edges(outputs.size());
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (outputs[i].defined() && outputs[i].requires_grad()) {
      edges[i] = torch::autograd::impl::gradient_edge(outputs[i]);
    }
  }
  return edges;
}

TensorList vector_jacobian_product(const GraphEdges& outputs, const TensorList& inputs,
                                   const TensorList& cotangents) {
  // An output that does not depend on any input has no graph and contributes nothing.
  GraphEdges with_graph;
  TensorList used;
  for (size_t i = 0; i < outputs.size(); ++i) {
    if (!outputs[i].is_valid()) continue;
    with_graph.push_back(outputs[i]);
    used.push_back(cotangents[i]);
  }
  if (with_graph.empty()) return TensorList(inputs.size());
  const FastKernels fast;
  // `torch::autograd::grad` does the same from tensors, which would keep the outputs' values.
  return densified(torch::autograd::Engine::get_default_engine().execute(
      with_graph, used, /*keep_graph=*/true, /*create_graph=*/false, /*accumulate_grad=*/false,
      graph_edges(inputs)));
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
  CURVATURE_CHECK(detail::is_finite(output_), NumericalError,
                  "linearisation: the model's output is not finite for the batch that begins with "
                  "example {}",
                  batch.first_example());
  cotangent_ = at::zeros_like(output_.detach()).requires_grad_();
  pullback_.resize(parameters.size());
  if (!output_.requires_grad()) return;
  const ZeroProducts graph_alone;
  pullback_ = graph_edges(densified(torch::autograd::grad({output_}, parameters, {cotangent_},
                                                          /*retain_graph=*/true,
                                                          /*create_graph=*/true,
                                                          /*allow_unused=*/true)));
}

at::Tensor OutputLinearization::jvp(const std::vector<size_t>& block, const TensorList& v) const {
  GraphEdges pullback;
  for (const size_t i : block) pullback.push_back(pullback_[i]);
  const at::Tensor product = vector_jacobian_product(pullback, {cotangent_}, v).front();
  return product.defined() ? product : at::zeros_like(output_.detach());
}

TensorList OutputLinearization::vjp(const std::vector<size_t>& block, const at::Tensor& w) const {
  TensorList inputs;
  for (const size_t i : block) inputs.push_back(parameters_[i]);
  return vector_jacobian_product(graph_edges({output_}), inputs, {w});
}

ColumnSums::ColumnSums(const Space& space, int64_t num_columns, const at::TensorOptions& options)
    : space_(space),
      rows_(at::empty({num_columns, space.size()}, options)),
      is_set_(static_cast<size_t>(num_columns) * space.entries().size()) {}

void ColumnSums::add(int64_t column, const std::vector<size_t>& block, const TensorList& part) {
  const at::Tensor row = rows_.select(0, column);
  for (size_t i = 0; i < block.size(); ++i) {
    if (!part[i].defined()) continue;
    const SpaceEntry& entry = space_.entries()[block[i]];
    at::Tensor sum = row.narrow(0, entry.offset, entry.size).view(entry.shape);
    std::vector<bool>::reference is_set =
        is_set_[static_cast<size_t>(column) * space_.entries().size() + block[i]];
    if (is_set) {
      sum.add_(part[i]);
    } else {
      sum.copy_(part[i]);
    }
    is_set = true;
  }
}

at::Tensor ColumnSums::rows() && {
  const size_t count = space_.entries().size();
  for (size_t i = 0; i < is_set_.size(); ++i) {
    const SpaceEntry& entry = space_.entries()[i % count];
    if (is_set_[i]) continue;
    rows_.select(0, static_cast<int64_t>(i / count)).narrow(0, entry.offset, entry.size).zero_();
  }
  return std::move(rows_);
}

TensorList ColumnSums::list() && { return Columns(std::move(*this).rows(), space_).list(); }

Columns::Columns(const TensorList& x) : size_(x.front().size(-1)) {
  for (const at::Tensor& tensor : x) {
    Shape shape = tensor.sizes().vec();
    std::rotate(shape.begin(), shape.end() - 1, shape.end());  // the columns come first
    rows_.push_back(columns_as_rows(tensor.unsqueeze(0).flatten(0, -2)).view(shape));
  }
}

Columns::Columns(const at::Tensor& rows, const Space& space) : size_(rows.size(0)) {
  for (const SpaceEntry& entry : space.entries()) {
    Shape shape = entry.shape;
    shape.insert(shape.begin(), size_);
    rows_.push_back(rows.narrow(1, entry.offset, entry.size).view(shape));
  }
}

TensorList Columns::list() const {
  TensorList list;
  for (const at::Tensor& rows : rows_) list.push_back(rows.movedim(0, -1));
  return list;
}

TensorList Columns::at(int64_t k, const std::vector<size_t>& block) const {
  TensorList column;
  for (const size_t i : block) {
    const at::Tensor view = rows_[i].select(0, k);
    // A parameter seen through view_as_complex: pairs of numbers must begin at an even place.
    const bool is_odd_pair = view.dim() > 0 && view.size(-1) == 2 && view.storage_offset() % 2 != 0;
    column.push_back(is_odd_pair ? view.clone() : view);
  }
  return column;
}

int64_t budget_bytes(const EmpiricalRisk& risk, const MatrixFreeOptions& options) {
  const int64_t bytes =
      options.memory_budget.value_or(default_memory_budget(risk.parameters().front().device()));
  CURVATURE_CHECK(bytes >= 0, OptionError, "memory_budget must not be negative; got {}", bytes);
  return bytes;
}

}  // namespace curvature::detail
