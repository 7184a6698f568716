#pragma once

#include <memory>
#include <string>
#include <vector>

#include <curvature/optim/preconditioned.hpp>

namespace curvature::benchmark {

/// An optimizer in the comparison. Momentum, decay of second moments, weight decay and the bound of
/// the gradient are those of all.
struct Method {
  std::string name;                      ///< `kl-shampoo`
  optim::EstimatorFactory estimator;     ///< of matrices
  optim::PreconditionedOptions options;  ///< of matrices and vectors
  bool adam_at_ends = false;             ///< embeddings and output layer are AdamW's
  bool constant_rate = false;            ///< after the warm-up; otherwise it goes down to 0
};

/// All of them, AdamW first.
std::vector<Method> methods();

/// For a model that has not been trained.
std::unique_ptr<optim::Preconditioned> make_optimizer(const Method& method,
                                                      std::vector<NamedTensor> parameters);

}  // namespace curvature::benchmark
