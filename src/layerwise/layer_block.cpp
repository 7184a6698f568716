#include "layerwise/layer_block.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/zeros.h>

#include "core/check.hpp"

namespace curvature::detail {
namespace {

/// Whether the block is all of `weight` `[shape..., K]`, as a column. No quotient by K: it may be
/// 0.
bool is_whole_vector(const LayerBlock& block, const at::Tensor& weight) {
  return block.weight_columns == 1 &&
         block.rows == c10::multiply_integers(weight.sizes().slice(0, weight.dim() - 1));
}

/// The group's part of a weight `[d0, ..., K]` as a view `[m, n, K]` up to a reshape.
at::Tensor weight_matrix(const LayerBlock& block, const at::Tensor& weight) {
  const int64_t num_columns = weight.size(-1);
  if (is_whole_vector(block, weight)) {
    return weight.reshape({block.rows, 1, num_columns});
  }
  const int64_t first = weight.size(0) / block.layout.groups;
  at::Tensor part = weight.narrow(0, block.group * first, first);
  if (block.layout.transposed) {
    part = part.reshape({first, block.rows, block.weight_columns / first, num_columns})
               .permute({1, 0, 2, 3});
  }
  return part.reshape({block.rows, block.weight_columns, num_columns});
}

class LayerBlocks final : public LinearOperator {
 public:
  LayerBlocks(std::vector<LayerBlock> blocks, std::vector<OperatorPtr> inner, Space space,
              const at::TensorOptions& options, std::string name, Symmetry symmetry)
      : LinearOperator({.domain = space,
                        .range = space,
                        .dtype = c10::typeMetaToScalarType(options.dtype()),
                        .device = options.device(),
                        .symmetry = symmetry}),
        blocks_(std::move(blocks)),
        inner_(std::move(inner)),
        name_(std::move(name)) {}

  std::string describe() const override {
    return fmt::format("{}(n={}, {} blocks)", name_, cols(), blocks_.size());
  }

  Structure structure() const override {
    const auto with_blocks = [blocks = blocks_, space = spec().domain, options = options(),
                              name = name_](std::vector<OperatorPtr> inner) {
      return layer_blocks(blocks, std::move(inner), space, options, name);
    };
    return PartitionStructure{inner_, with_blocks};
  }

  std::optional<at::Tensor> diagonal() const override {
    TensorList result = zeros(1);
    for (size_t i = 0; i < blocks_.size(); ++i) {
      const auto part = inner_[i]->diagonal();
      if (!part) return std::nullopt;
      blocks_[i].scatter_add(part->unsqueeze(1), result);
    }
    return spec().domain.join(result).squeeze(1);
  }

  std::optional<double> trace() const override {
    return sum_of([](const LinearOperator& a) { return a.trace(); });
  }

  std::optional<double> frobenius_norm() const override {
    const auto squares = sum_of([](const LinearOperator& a) -> std::optional<double> {
      const auto norm = a.frobenius_norm();
      return norm ? std::optional(*norm * *norm) : std::nullopt;
    });
    return squares ? std::optional(std::sqrt(*squares)) : std::nullopt;
  }

  std::optional<LogDeterminant> log_determinant() const override {
    LogDeterminant result{1, 0};
    for (const OperatorPtr& inner : inner_) {
      const auto part = inner->log_determinant();
      if (!part) return std::nullopt;
      result.sign *= part->sign;
      result.log_abs += part->log_abs;
    }
    return result;
  }

  std::optional<at::Tensor> eigenvalues() const override {
    TensorList parts;
    for (const OperatorPtr& inner : inner_) {
      const auto part = inner->eigenvalues();
      if (!part) return std::nullopt;
      parts.push_back(*part);
    }
    return at::cat(parts);
  }

  OperatorPtr function(const SpectralFunction& f) const override {
    return with([&f](const LinearOperator& a) { return a.function(f); });
  }
  OperatorPtr inverse() const override {
    return with([](const LinearOperator& a) { return a.inverse(); });
  }
  OperatorPtr square_root_factor() const override {
    return with([](const LinearOperator& a) { return a.square_root_factor(); });
  }

 protected:
  TensorList apply_impl(const TensorList& x) const override {
    return apply_blocks(x, [](const LinearOperator& a, const at::Tensor& v) { return a.apply(v); });
  }
  TensorList apply_adjoint_impl(const TensorList& y) const override {
    return apply_blocks(
        y, [](const LinearOperator& a, const at::Tensor& v) { return a.apply_adjoint(v); });
  }

 private:
  template <class Apply>
  TensorList apply_blocks(const TensorList& x, const Apply& apply) const {
    TensorList result = zeros(x.front().size(-1));
    for (size_t i = 0; i < blocks_.size(); ++i) {
      blocks_[i].scatter_add(apply(*inner_[i], blocks_[i].gather(x)), result);
    }
    return result;
  }

  template <class Get>
  std::optional<double> sum_of(const Get& get) const {
    double sum = 0;
    for (const OperatorPtr& inner : inner_) {
      const std::optional<double> part = get(*inner);
      if (!part) return std::nullopt;
      sum += *part;
    }
    return sum;
  }

  /// The same blocks with other operators; null if one is missing.
  template <class Make>
  OperatorPtr with(const Make& make) const {
    std::vector<OperatorPtr> made;
    for (size_t i = 0; i < inner_.size(); ++i) {
      try {
        made.push_back(make(*inner_[i]));
      } catch (const NumericalError& error) {
        const auto& parameter = blocks_[i].weight ? blocks_[i].weight : blocks_[i].bias;
        throw NumericalError(fmt::format("layer of '{}': {}",
                                         spec().domain.entries()[*parameter].name, error.what()));
      }
      if (made.back() == nullptr) return nullptr;
    }
    return layer_blocks(blocks_, std::move(made), spec().domain, options(), name_);
  }

  at::TensorOptions options() const {
    return at::TensorOptions().dtype(spec().dtype).device(spec().device);
  }

  TensorList zeros(int64_t num_columns) const {
    TensorList result;
    for (const auto& entry : spec().domain.entries()) {
      Shape shape = entry.shape;
      shape.push_back(num_columns);
      result.push_back(at::zeros(shape, options()));
    }
    return result;
  }

  std::vector<LayerBlock> blocks_;
  std::vector<OperatorPtr> inner_;
  std::string name_;
};

}  // namespace

at::Tensor LayerBlock::gather(const TensorList& x) const {
  TensorList parts;
  if (weight) parts.push_back(weight_matrix(*this, x[*weight]));
  if (bias) {
    const at::Tensor& vector = x[*bias];
    parts.push_back(
        vector.reshape({layout.groups * rows, 1, vector.size(-1)}).narrow(0, group * rows, rows));
  }
  const at::Tensor matrix = parts.size() == 1 ? parts.front() : at::cat(parts, 1);
  return matrix.reshape({size(), matrix.size(2)});
}

void LayerBlock::scatter_add(const at::Tensor& matrix, TensorList& x) const {
  const at::Tensor m = matrix.reshape({rows, columns(), matrix.size(1)});
  if (weight) {
    at::Tensor& target = x[*weight];
    const at::Tensor w = m.narrow(1, 0, weight_columns);
    if (is_whole_vector(*this, target)) {
      target.add_(w.reshape(target.sizes()));
    } else {
      const int64_t first = target.size(0) / layout.groups;
      at::Tensor part = target.narrow(0, group * first, first);
      if (layout.transposed) {
        const at::Tensor back =
            w.reshape({rows, first, weight_columns / first, target.size(-1)}).permute({1, 0, 2, 3});
        part.add_(back.reshape(part.sizes()));
      } else {
        part.add_(w.reshape(part.sizes()));
      }
    }
  }
  if (bias) {
    at::Tensor part =
        x[*bias].reshape({layout.groups * rows, m.size(2)}).narrow(0, group * rows, rows);
    part.add_(m.select(1, columns() - 1));
  }
}

LayerBlock block_of(const LayerPart& part, const Space& space) {
  LayerBlock block{.kind = part.kind,
                   .weight = part.weight,
                   .bias = part.bias,
                   .layout = part.layout,
                   .group = part.group};
  if (part.weight) {
    const Shape& shape = space.entries()[*part.weight].shape;
    int64_t size = 1;
    for (const int64_t extent : shape) size *= extent;
    if (part.inputs == nullptr) {
      block.rows = size;
      block.weight_columns = 1;
    } else {
      const int64_t first = shape[0] / part.layout.groups;
      block.rows = part.layout.transposed ? shape[1] : first;
      block.weight_columns = size / part.layout.groups / block.rows;
    }
  } else {
    const Shape& shape = space.entries()[*part.bias].shape;
    int64_t size = 1;
    for (const int64_t extent : shape) size *= extent;
    block.rows = size / part.layout.groups;
  }
  return block;
}

OperatorPtr layer_blocks(std::vector<LayerBlock> blocks, std::vector<OperatorPtr> inner,
                         Space space, const at::TensorOptions& options, std::string name,
                         Symmetry at_most) {
  int64_t covered = 0;
  for (const LayerBlock& block : blocks) covered += block.size();
  CURVATURE_CHECK(covered == space.size(), ShapeError, "{}: the blocks cover {} of {} parameters",
                  name, covered, space.size());
  Symmetry symmetry = at_most;
  for (const OperatorPtr& operation : inner)
    symmetry = std::min(symmetry, operation->spec().symmetry);
  return std::make_shared<LayerBlocks>(std::move(blocks), std::move(inner), std::move(space),
                                       options, std::move(name), symmetry);
}

}  // namespace curvature::detail
