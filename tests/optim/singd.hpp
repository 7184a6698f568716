#pragma once

// What tests of SINGD share.

#include <torch/torch.h>

#include <boost/test/unit_test.hpp>

#include <curvature/core/structure.hpp>
#include <curvature/layerwise/kfac_estimator.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/optim/singd.hpp>

#include "optim/small_problems.hpp"

namespace curvature::testing {

inline const std::vector<optim::FactorStructure> kStructures = {
    optim::FactorStructure::kDense,           optim::FactorStructure::kDiagonal,
    optim::FactorStructure::kBlockDiagonal,   optim::FactorStructure::kLowerTriangular,
    optim::FactorStructure::kUpperTriangular, optim::FactorStructure::kLowerToeplitz,
    optim::FactorStructure::kUpperToeplitz,   optim::FactorStructure::kHierarchical};

inline optim::StructureOptions small(optim::FactorStructure kind) {
  return {.kind = kind, .block_size = 2, .top = 1, .bottom = 1};
}

inline at::Tensor eye_like(const at::Tensor& a) { return at::eye(a.size(0), a.options()); }
inline double mean_eigenvalue(const at::Tensor& a) {
  return a.trace().item<double>() / static_cast<double>(a.size(0));
}
inline at::Tensor outer(const at::Tensor& k) { return k.mm(k.t()); }

inline at::Tensor factor(const optim::Minimizer& minimizer, const std::string& name) {
  return minimizer.save().tensors.at("factors/" + name);
}

/// A minimizer that only learns its factors, `steps` times, then takes one whole step.
inline at::Tensor step_after(int steps, const EmpiricalRisk& risk, optim::SingdOptions options) {
  options.learning_rate = 0;
  options.momentum = 0;
  options.refresh_interval = 1;
  const auto minimizer = optim::singd(risk, options);
  for (int step = 0; step < steps; ++step) minimizer->step(risk);
  minimizer->set_learning_rate(1);
  const at::Tensor before = parameters_of(risk);
  minimizer->step(risk);
  return parameters_of(risk) - before;
}

/// Settings under which the factors find their fixed point fast.
inline optim::SingdOptions eager(double damping = 0.1, Fisher fisher = Fisher::kEmpirical) {
  return {.damping = damping, .preconditioner_rate = 0.5, .alpha1 = 0, .fisher = fisher};
}

inline at::Tensor step_by(const EmpiricalRisk& risk, const OperatorPtr& curvature) {
  return -at::linalg_solve(materialize(*curvature), gradient_of(risk));
}

/// K-FAC's factors of the layer of a linear model.
inline std::pair<at::Tensor, at::Tensor> kfac_factors(const OperatorPtr& layers, size_t block) {
  const Structure structure = layers->structure();
  const Structure inner = std::get<PartitionStructure>(structure).blocks.at(block)->structure();
  const auto& product = std::get<KroneckerStructure>(inner);
  return {product.factors.at(1), product.factors.at(0)};
}

}  // namespace curvature::testing
