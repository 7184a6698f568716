#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include <ATen/core/Tensor.h>
#include <torch/csrc/autograd/function.h>

#include <curvature/core/memory.hpp>
#include <curvature/matrix_free/options.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature::detail {

/// Positions of the parameters in each diagonal block that is kept.
using Partition = std::vector<std::vector<size_t>>;
Partition partition(const Space& space, Blocks blocks);

/// Where cotangents enter the graph of a list of tensors; nowhere for a tensor without graph. It
/// keeps the graph alive, but not the values.
using GraphEdges = std::vector<torch::autograd::Edge>;
GraphEdges graph_edges(const TensorList& outputs);

/// J^T w: gradients of outputs with `cotangents` for `inputs`, in order; undefined where an input
/// plays no role. The graph is kept.
TensorList vector_jacobian_product(const GraphEdges& outputs, const TensorList& inputs,
                                   const TensorList& cotangents);

/// The outputs of a batch, ready for products with their Jacobian in both directions.
///
/// Keeps the graph of the outputs and that of u -> J^T u ("double vjp"): J v is one backward pass
/// through the second, J^T w one through the first.
class OutputLinearization {
 public:
  /// @throws NumericalError if the output is not finite
  explicit OutputLinearization(const BatchRisk& batch, const TensorList& parameters);

  /// The model's output `[B, ...]`, without graph.
  at::Tensor output() const { return output_.detach(); }
  /// J v restricted to the parameters at `block`, shaped as the output; `v` has one tensor for each
  /// of them.
  at::Tensor jvp(const std::vector<size_t>& block, const TensorList& v) const;
  /// J^T w for the parameters at `block`; undefined tensors are zeros.
  TensorList vjp(const std::vector<size_t>& block, const at::Tensor& w) const;

 private:
  TensorList parameters_;
  at::Tensor output_;     // with graph
  at::Tensor cotangent_;  // u, a leaf
  GraphEdges pullback_;   // of J^T u as a function of u
};

/// Linearisations of batches, kept within a budget of bytes, first come, first kept. Thread-safe.
template <class Linearization>
class KeptLinearizations {
 public:
  using Ptr = std::shared_ptr<const Linearization>;

  KeptLinearizations(int64_t num_batches, int64_t bytes)
      : budget_(bytes), slots_(static_cast<size_t>(num_batches)) {}

  /// The kept linearisation of batch `index`, or a new one, kept if it fits.
  Ptr get(int64_t index, const std::function<Ptr()>& linearize) const {
    Slot& slot = slots_[static_cast<size_t>(index)];
    const std::lock_guard lock(slot.mutex);  // two threads do not linearise the same batch
    if (slot.kept) return slot.kept;
    Ptr made;
    const auto bytes = measure_kept_memory([&] { made = linearize(); });
    // What cannot be measured (under a profiler) cannot be budgeted.
    if (bytes && budget_.reserve(*bytes)) slot.kept = made;
    return made;
  }

 private:
  struct Slot {
    std::mutex mutex;
    Ptr kept;
  };
  mutable MemoryBudget budget_;
  mutable std::deque<Slot> slots_;
};

/// Sums lists of tensors of one space column by column.
class ColumnSums {
 public:
  ColumnSums(const Space& space, int64_t num_columns, const at::TensorOptions& options);

  /// Adds `part` (undefined tensors are zeros) to the entries at `block` of a column.
  void add(int64_t column, const std::vector<size_t>& block, const TensorList& part);
  /// The columns as rows `[K, size]`.
  at::Tensor rows() &&;
  /// `[shape..., K]`, each column contiguous.
  TensorList list() &&;

 private:
  const Space& space_;
  at::Tensor rows_;
  std::vector<bool> is_set_;  // column by column, entry by entry; the others are not initialised
};

/// The columns of a list operand (each tensor `[shape..., K]`), each contiguous: cut once, used by
/// every batch.
class Columns {
 public:
  explicit Columns(const TensorList& x);
  /// The same for the columns as rows `[K, size]`, contiguous; they are not copied.
  Columns(const at::Tensor& rows, const Space& space);

  int64_t size() const noexcept { return size_; }
  /// All columns, as `[shape..., K]`.
  TensorList list() const;
  /// The entries of column `k` at `block`.
  TensorList at(int64_t k, const std::vector<size_t>& block) const;

 private:
  int64_t size_;
  TensorList rows_;  // [K, shape...]
};

/// The options' budget or the default for the risk's device.
int64_t budget_bytes(const EmpiricalRisk& risk, const MatrixFreeOptions& options);

}  // namespace curvature::detail
