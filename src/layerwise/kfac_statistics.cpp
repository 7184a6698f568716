#include "layerwise/kfac_statistics.hpp"

#include <functional>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/eye.h>
#include <ATen/ops/full.h>
#include <ATen/ops/maximum.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include "core/check.hpp"
#include "core/epsilon.hpp"
#include "layerwise/assemble.hpp"
#include "layerwise/cotangents.hpp"
#include "layerwise/gram.hpp"
#include "layerwise/squared_gradients.hpp"
#include "operators/low_rank_eigen.hpp"

namespace curvature::detail {
namespace {

double weight_of(const BatchRisk& batch) {
  const at::Tensor& weights = batch.batch().weights;
  return weights.defined() ? weights.sum().item<double>()
                           : static_cast<double>(batch.batch().size());
}

struct Eigenvectors {
  at::Tensor vectors;
  double num_null;  ///< the first ones have no eigenvalue
};

/// Eigenvectors of symmetric matrices; equal ones, such as those of inputs that several layers
/// share, are decomposed once. They are known by the product with a vector, of which the hash saves
/// memory: what differs by more than rounding has another one.
class EigenvectorCache {
 public:
  Eigenvectors of(at::Tensor matrix, int64_t max_rank, const std::string& who) {
    const auto [entry, is_new] = known_.try_emplace({matrix.size(0), hash(matrix)});
    if (is_new) {
      const auto [values, vectors] = semidefinite_eigen(std::move(matrix), max_rank, who);
      entry->second = {vectors, static_cast<double>(values.eq(0).sum().item<int64_t>())};
    }
    return entry->second;
  }

 private:
  static size_t hash(const at::Tensor& matrix) {
    const at::Tensor host = matrix.mv(at::arange(matrix.size(0), matrix.options()).cos_()).cpu();
    return std::hash<std::string_view>()(
        {static_cast<const char*>(host.const_data_ptr()), host.nbytes()});
  }

  std::map<std::pair<int64_t, size_t>, Eigenvectors> known_;
};

/// Zeros for the first `num_null` rows of mean squares if the largest of them is below the
/// accuracy of the basis: a factor had no eigenvalue along them, and what a decomposition leaves
/// there is eps times the largest eigenvalue. Examples that came later may have more.
void clear_null_rows(at::Tensor squares, double num_null) {
  if (num_null == 0) return;
  const at::Tensor sums = squares.sum(1);
  at::Tensor null = squares.narrow(0, 0, static_cast<int64_t>(num_null));
  const at::Tensor largest = sums.narrow(0, 0, null.size(0)).max();
  if ((largest <= epsilon(squares.scalar_type()) * sums.max()).item<bool>()) null.zero_();
}

/// Zeros where a mean square along two basis vectors is nothing but rounding, which subnormal
/// numbers are as well (and a hundred times slower to multiply with). A coordinate v . g of a
/// vector `[d]` has an error of sqrt(d) eps |g|, and the squares add up to those of the lengths.
/// @param is_rotated whether the inputs were multiplied by a basis: one-hot ones are exact
at::Tensor without_rounding_errors(const at::Tensor& squares, bool is_rotated) {
  const double unit = epsilon(squares.scalar_type());
  const double smallest = squares.scalar_type() == at::kDouble ? std::numeric_limits<double>::min()
                                                               : std::numeric_limits<float>::min();
  const auto error = [&](int64_t axis) {
    const double factor = static_cast<double>(squares.size(axis)) * unit * unit;
    return squares.sum(axis, /*keepdim=*/true).mul_(factor);
  };
  at::Tensor bound = error(0).clamp_min_(smallest);
  if (is_rotated) bound = at::maximum(bound, error(1));
  return squares.masked_fill(squares < bound, 0);
}

}  // namespace

KfacStatistics::KfacStatistics(EmpiricalRisk risk, KfacOptions options, LayerPlan plan)
    : risk_(std::move(risk)), options_(std::move(options)), plan_(std::move(plan)) {
  for (const LayerBlock& block : plan_.blocks) {
    const Shape square = {block.columns(), block.columns()};
    const at::Tensor a =
        at::zeros(block.one_hot ? Shape{block.columns()} : square, tensor_options());
    const at::Tensor b = at::zeros({block.rows, block.rows}, tensor_options());
    sums_.push_back({.factors = {a, b}, .basis = {}});
  }
}

at::TensorOptions KfacStatistics::tensor_options() const {
  return risk_.parameters().front().options().requires_grad(false);
}

void KfacStatistics::add(const BatchRisk& batch, const Recorded& recorded, Targets targets) {
  const at::NoGradGuard no_grad;
  const LayerPass pass(risk_, plan_, batch, recorded, options_.separate_bias);
  for (size_t i = 0; i < sums_.size(); ++i) {
    if (pass.uses(i) && targets.factors) add_inputs(i, pass, batch.batch().weights);
  }
  for_each_cotangent(risk_, batch, pass.output(), options_, [&](const at::Tensor& cotangent) {
    const TensorList backward = pass.backward(cotangent);
    if (targets.factors) add_outputs(pass, backward);
    if (targets.squares) add_squares(pass, backward);
  });
  if (targets.factors) factor_weight_ += weight_of(batch);
  if (targets.squares) square_weight_ += weight_of(batch);
}

void KfacStatistics::add_inputs(size_t block, const LayerPass& pass, const at::Tensor& weights) {
  if (plan_.blocks[block].one_hot) {
    return add_one_hot_inputs(block, pass.indices(block), weights);
  }
  BlockSums& sums = sums_[block];
  sums.input_rows +=
      static_cast<double>(pass.num_examples() * (reduces() ? 1 : pass.num_positions(block)));
  if (!reduces()) {
    sums.input_count += pass.add_input_moment(block, weights, sums.factors.a);
    return;
  }
  const at::Tensor rows = pass.inputs(block).mean(1);
  if (!weights.defined()) {
    add_gram(sums.factors.a, rows);
    sums.input_count += static_cast<double>(rows.size(0));
    return;
  }
  add_gram(sums.factors.a, rows * weights.to(rows.options()).sqrt().unsqueeze(1));
  sums.input_count += weights.sum().item<double>();
}

void KfacStatistics::add_one_hot_inputs(size_t block, const at::Tensor& indices,
                                        const at::Tensor& weights) {
  const at::TensorOptions options = tensor_options();
  const at::Tensor w = weights.defined() ? weights.to(options).unsqueeze(1).expand_as(indices)
                                         : at::ones(indices.sizes(), options);
  const at::Tensor kept = indices.flatten().ge(0).nonzero().squeeze(1);
  sums_[block].factors.a.index_add_(0, indices.flatten().index_select(0, kept),
                                    w.flatten().index_select(0, kept));
  sums_[block].input_count += w.sum().item<double>();
}

void KfacStatistics::add_outputs(const LayerPass& pass, const TensorList& backward) {
  // With biases apart a layer's weight and bias see the same gradients.
  std::map<size_t, std::pair<at::Tensor, double>> moments;
  for (size_t i = 0; i < sums_.size(); ++i) {
    if (!pass.uses(i)) continue;
    at::Tensor& sum = sums_[i].factors.b;
    double& rows = sums_[i].output_rows;
    if (!options_.separate_bias) {
      rows += add_output_moment(pass.gradients(i, backward), sum);
      continue;
    }
    size_t twin = 0;
    while (twin < i && !(pass.uses(twin) && pass.same_gradients(twin, i))) ++twin;
    if (twin == i) {
      auto& [moment, count] = moments[i];
      moment = at::zeros_like(sum);
      count = add_output_moment(pass.gradients(i, backward), moment);
    }
    sum.add_(moments.at(twin).first);
    rows += moments.at(twin).second;
  }
}

double KfacStatistics::add_output_moment(const at::Tensor& gradients, at::Tensor& sum) const {
  add_gram(sum, reduces() ? gradients.sum(1) : gradients);
  return static_cast<double>(gradients.size(0) * (reduces() ? 1 : gradients.size(1)));
}

void KfacStatistics::add_squares(const LayerPass& pass, const TensorList& backward) {
  for (size_t i = 0; i < sums_.size(); ++i) {
    if (!pass.uses(i)) continue;
    const at::Tensor g = pass.gradients(i, backward);
    BlockSums& sums = sums_[i];
    if (!sums.squares.defined()) sums.squares = squares_of(i);
    if (plan_.blocks[i].one_hot) {
      add_squared_gradients_of_one_hot(g.matmul(sums.basis.b), pass.indices(i), sums.squares);
    } else {
      // Windows are cut anew for each cotangent: those of all layers at once would be the peak.
      add_squared_gradients(g, pass.inputs(i), sums.basis.b, sums.basis.a, sums.squares);
    }
  }
}

at::Tensor KfacStatistics::squares_of(size_t block) const {
  const LayerBlock& shape = plan_.blocks[block];
  const at::Tensor& squares = sums_[block].squares;
  return squares.defined() ? squares.clone()
                           : at::zeros({shape.rows, shape.columns()}, tensor_options());
}

KfacStatistics KfacStatistics::clone() const {
  KfacStatistics copy = *this;
  for (BlockSums& sums : copy.sums_) {
    for (at::Tensor* tensor : {&sums.factors.a, &sums.factors.b, &sums.squares}) {
      if (tensor->defined()) *tensor = tensor->clone();
    }
  }
  return copy;
}

void KfacStatistics::decay(double factor, Targets targets) {
  for (BlockSums& sums : sums_) {
    if (targets.factors) {
      sums.factors.a.mul_(factor);
      sums.factors.b.mul_(factor);
      sums.input_count *= factor;
    }
    if (targets.squares && sums.squares.defined()) sums.squares.mul_(factor);
  }
  if (targets.factors) factor_weight_ *= factor;
  if (targets.squares) square_weight_ *= factor;
}

void KfacStatistics::merge(const KfacStatistics& other) {
  CURVATURE_CHECK(description() == other.description(), OptionError,
                  "KfacEstimator: cannot merge statistics of other layers or options; expected\n{}"
                  "got\n{}",
                  description(), other.description());
  for (size_t i = 0; i < sums_.size(); ++i) {
    sums_[i].factors.a.add_(other.sums_[i].factors.a);
    sums_[i].factors.b.add_(other.sums_[i].factors.b);
    sums_[i].input_count += other.sums_[i].input_count;
    sums_[i].input_rows += other.sums_[i].input_rows;
    sums_[i].output_rows += other.sums_[i].output_rows;
  }
  factor_weight_ += other.factor_weight_;
  forget_basis();
}

void KfacStatistics::forget_basis() {
  for (BlockSums& sums : sums_) {
    sums.basis = FactorPair();
    sums.null_inputs = sums.null_outputs = 0;
    sums.squares = at::Tensor();
  }
  has_basis_ = false;
  square_weight_ = 0;
}

void KfacStatistics::refresh_basis() {
  const at::NoGradGuard no_grad;
  forget_basis();  // which takes as much memory as the new one
  const std::vector<int64_t> ranks = rank_bounds();
  EigenvectorCache eigenvectors;
  std::vector<std::pair<Eigenvectors, Eigenvectors>> bases;
  for (size_t i = 0; i < sums_.size(); ++i) {
    const LayerBlock& block = plan_.blocks[i];
    const std::string layer = layer_name(risk_.space(), block);
    const FactorPair& sums = sums_[i].factors;
    FactorPair factors = factors_from(i, {sums.a.clone(), sums.b.clone()});
    Eigenvectors a = {};
    if (!block.one_hot) {
      a = eigenvectors.of(std::move(factors.a), ranks[2 * i],
                          fmt::format("input factor of '{}'", layer));
    }
    bases.emplace_back(std::move(a), eigenvectors.of(std::move(factors.b), ranks[2 * i + 1],
                                                     fmt::format("output factor of '{}'", layer)));
  }
  for (size_t i = 0; i < bases.size(); ++i) {
    const auto& [a, b] = bases[i];
    sums_[i].basis = {a.vectors, b.vectors};
    sums_[i].null_inputs = a.num_null;
    sums_[i].null_outputs = b.num_null;
  }
  has_basis_ = true;
}

std::vector<int64_t> KfacStatistics::rank_bounds() const {
  TensorList rows = {at::zeros({static_cast<int64_t>(2 * sums_.size())}, at::kDouble)};
  double* numbers = rows.front().mutable_data_ptr<double>();
  for (const BlockSums& sums : sums_) {
    *numbers++ = sums.input_rows;
    *numbers++ = sums.output_rows;
  }
  risk_.reducer().sum(rows);
  numbers = rows.front().mutable_data_ptr<double>();
  return {numbers, numbers + rows.front().numel()};
}

FactorPair KfacStatistics::factors_from(size_t block, FactorPair sums) const {
  const at::NoGradGuard no_grad;
  TensorList all = {sums.a, sums.b, at::full({1}, sums_[block].input_count, at::kDouble),
                    at::full({1}, factor_weight_, at::kDouble)};
  risk_.reducer().sum(all);
  at::Tensor a = all[0], b = all[1];
  const double count = all[2].item<double>();
  const double input_scale = count > 0 ? 1 / count : 1;
  if (a.dim() == 1) {
    a.mul_(input_scale);
  } else {
    mirror_lower(a, input_scale);
  }
  if (options_.fisher == Fisher::kForwardOnly) return {a, at::eye(b.size(0), b.options())};
  // B is a sum over the data, of which this may be a part.
  const double part = all[3].item<double>() / risk_.total_weight();
  mirror_lower(b, part > 0 ? 1 / part : 1);
  return {a, b};
}

std::vector<FactorPair> KfacStatistics::factors() const& {
  std::vector<FactorPair> pairs;
  for (size_t i = 0; i < sums_.size(); ++i) {
    const FactorPair& sums = sums_[i].factors;
    pairs.push_back(factors_from(i, {sums.a.clone(), sums.b.clone()}));
  }
  return pairs;
}

std::vector<FactorPair> KfacStatistics::factors() && {
  std::vector<FactorPair> pairs;
  for (size_t i = 0; i < sums_.size(); ++i) pairs.push_back(factors_from(i, sums_[i].factors));
  return pairs;
}

std::vector<FactorPair> KfacStatistics::bases() const {
  std::vector<FactorPair> bases;
  for (const BlockSums& sums : sums_) bases.push_back(sums.basis);
  return bases;
}

TensorList KfacStatistics::eigenvalues() const {
  const at::NoGradGuard no_grad;
  TensorList values;
  for (size_t i = 0; i < sums_.size(); ++i) values.push_back(squares_of(i));
  values.push_back(at::full({1}, square_weight_, at::kDouble));
  risk_.reducer().sum(values);
  const double part = values.back().item<double>() / risk_.total_weight();
  values.pop_back();
  if (part != 1 && part > 0) {
    for (at::Tensor& tensor : values) tensor.div_(part);
  }
  for (size_t i = 0; i < values.size(); ++i) {
    clear_null_rows(values[i], sums_[i].null_outputs);
    clear_null_rows(values[i].t(), sums_[i].null_inputs);
    values[i] = without_rounding_errors(values[i], !plan_.blocks[i].one_hot);
  }
  return values;
}

}  // namespace curvature::detail
