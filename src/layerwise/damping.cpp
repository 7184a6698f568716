#include <cmath>
#include <utility>
#include <variant>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/eye.h>

#include <curvature/layerwise/damping.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/kronecker.hpp>

#include "core/check.hpp"

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

OperatorPtr damped_block(const OperatorPtr& block, const DampingOptions& options) {
  double damping = options.damping;
  if (options.relative) {
    if (const double mean = mean_eigenvalue(*block); mean > 0) damping *= mean;
  }
  const Structure structure = block->structure();
  const auto* product = std::get_if<KroneckerStructure>(&structure);
  if (options.kind == KroneckerDamping::kExact || product == nullptr) {
    return shifted(block, damping);
  }
  const std::vector<double> added =
      shares(product->factors, damping, options.kind == KroneckerDamping::kHeuristicPi);
  std::vector<at::Tensor> factors = product->factors;
  for (size_t i = 0; i < factors.size(); ++i) {
    factors[i] = factors[i] + added[i] * at::eye(factors[i].size(0), factors[i].options());
  }
  const Symmetry symmetry = damping > 0 && block->spec().symmetry >= Symmetry::kPositiveSemidefinite
                                ? Symmetry::kPositiveDefinite
                                : block->spec().symmetry;
  return kronecker(factors, block->spec().domain, block->spec().range, symmetry);
}

}  // namespace

OperatorPtr damped(const OperatorPtr& layerwise, const DampingOptions& options) {
  CURVATURE_CHECK(layerwise != nullptr, OptionError, "damped: got a null operator");
  CURVATURE_CHECK(options.damping >= 0 && std::isfinite(options.damping), OptionError,
                  "damped: damping must be finite and not negative; got {}", options.damping);
  const Structure structure = layerwise->structure();
  const auto* partition = std::get_if<PartitionStructure>(&structure);
  if (partition == nullptr) return damped_block(layerwise, options);
  std::vector<OperatorPtr> blocks;
  for (const OperatorPtr& block : partition->blocks) {
    blocks.push_back(damped_block(block, options));
  }
  return partition->with_blocks(std::move(blocks));
}

}  // namespace curvature
