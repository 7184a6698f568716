#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>
#include <variant>
#include <vector>

#include <ATen/TensorOperators.h>

#include <curvature/layerwise/damping.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/check.hpp"
#include "operators/support.hpp"

namespace curvature {
namespace {

double mean_eigenvalue(const LinearOperator& block) {
  const std::optional<double> trace = block.trace();
  CURVATURE_CHECK(trace.has_value(), NotSupportedError,
                  "damped: {} has no closed form of its trace; damping cannot be relative to it",
                  block.describe());
  return *trace / static_cast<double>(block.rows());
}

/// What is added to each factor: d^(1/k), for `pi` in proportion to the factors' mean eigenvalues.
std::vector<double> shares(const std::vector<at::Tensor>& factors, double damping, bool pi) {
  const double exponent = 1 / static_cast<double>(factors.size());
  std::vector<double> shares(factors.size(), std::pow(damping, exponent));
  if (!pi) return shares;
  std::vector<double> means;
  double geometric_mean = 1;
  for (const at::Tensor& factor : factors) {
    means.push_back(factor.trace().item<double>() / static_cast<double>(factor.size(0)));
    geometric_mean *= std::pow(means.back(), exponent);
  }
  if (!(geometric_mean > 0)) return shares;
  for (size_t i = 0; i < shares.size(); ++i) shares[i] *= means[i] / geometric_mean;
  return shares;
}

/// What becomes of a factor: scale times it, plus shift times the identity.
struct Affine {
  double scale;
  double shift;
};

/// The nearest factors in the sense of Kullback and Leibler, from the eigenvalues of both: with
/// p_B, p_A the eigenvalues of the inverses, S_A = ((p_B . b) A + d sum(p_B) I) / m and the same
/// for B, one after the other. All of it commutes, so that eigenvectors are not needed.
std::vector<Affine> nearest_factors(const std::vector<at::Tensor>& factors, double damping) {
  constexpr int kMaxIterations = 1000;
  constexpr double kTolerance = 1e-13;
  TensorList values;
  for (const at::Tensor& factor : factors) {
    values.push_back(
        detail::symmetric_eigenvalues(factor, "damped").cpu().to(at::kDouble).clamp_min(0));
  }
  const std::vector<double> start = shares(factors, damping, /*pi=*/true);
  std::vector<Affine> nearest = {{1, start[0]}, {1, start[1]}};
  for (int iteration = 0; iteration < kMaxIterations; ++iteration) {
    double change = 0;
    for (const size_t i : {1, 0}) {
      const size_t other = 1 - i;
      const at::Tensor inverse = 1 / (nearest[other].scale * values[other] + nearest[other].shift);
      const auto size = static_cast<double>(factors[other].size(0));
      const Affine next = {inverse.dot(values[other]).item<double>() / size,
                           damping * inverse.sum().item<double>() / size};
      change = std::max(change, std::abs(next.shift / nearest[i].shift - 1));
      nearest[i] = next;
    }
    if (change < kTolerance) break;
  }
  return nearest;
}

/// `factors[i] * scale + shift * I`.
std::vector<at::Tensor> mapped(std::vector<at::Tensor> factors, const std::vector<Affine>& maps) {
  for (size_t i = 0; i < factors.size(); ++i) {
    factors[i] = factors[i] * maps[i].scale;
    factors[i].diagonal().add_(maps[i].shift);
  }
  return factors;
}

std::vector<Affine> affine_maps(const std::vector<at::Tensor>& factors, double damping,
                                KroneckerDamping kind) {
  if (kind == KroneckerDamping::kKullbackLeibler && damping > 0) {
    return nearest_factors(factors, damping);
  }
  std::vector<Affine> maps;
  for (const double share : shares(factors, damping, kind == KroneckerDamping::kHeuristicPi)) {
    maps.push_back({1, share});
  }
  return maps;
}

OperatorPtr damped_block(const OperatorPtr& block, const DampingOptions& options) {
  double damping = options.damping;
  if (options.relative) {
    if (const double mean = mean_eigenvalue(*block); mean > 0) damping *= mean;
  }
  const Structure structure = block->structure();
  const auto* product = std::get_if<KroneckerStructure>(&structure);
  const bool is_pair = product != nullptr && product->factors.size() == 2;
  if (options.kind == KroneckerDamping::kExact || product == nullptr ||
      (options.kind == KroneckerDamping::kKullbackLeibler && !is_pair)) {
    return shifted(block, damping);
  }
  const std::vector<at::Tensor> factors =
      mapped(product->factors, affine_maps(product->factors, damping, options.kind));
  const Symmetry symmetry = damping > 0 && block->spec().symmetry >= Symmetry::kPositiveSemidefinite
                                ? Symmetry::kPositiveDefinite
                                : block->spec().symmetry;
  return kronecker(factors, block->spec().domain, block->spec().range, symmetry);
}

/// Does the same to each block of a partition, or to all of an operator that is none.
OperatorPtr by_blocks(const OperatorPtr& layerwise, const DampingOptions& options,
                      const std::function<OperatorPtr(const OperatorPtr&)>& map) {
  CURVATURE_CHECK(layerwise != nullptr, OptionError, "damped: got a null operator");
  CURVATURE_CHECK(options.damping >= 0 && std::isfinite(options.damping), OptionError,
                  "damped: damping must be finite and not negative; got {}", options.damping);
  const Structure structure = layerwise->structure();
  const auto* partition = std::get_if<PartitionStructure>(&structure);
  if (partition == nullptr) return map(layerwise);
  std::vector<OperatorPtr> blocks;
  for (const OperatorPtr& block : partition->blocks) blocks.push_back(map(block));
  return partition->with_blocks(std::move(blocks));
}

}  // namespace

OperatorPtr damped(const OperatorPtr& layerwise, const DampingOptions& options) {
  return by_blocks(layerwise, options,
                   [&](const OperatorPtr& block) { return damped_block(block, options); });
}

OperatorPtr damped_inverse(const OperatorPtr& layerwise, const DampingOptions& options) {
  return by_blocks(layerwise, options, [&](const OperatorPtr& block) {
    return damped_block(block, options)->inverse();
  });
}

}  // namespace curvature
