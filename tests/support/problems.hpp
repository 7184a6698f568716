#pragma once

#include <functional>
#include <ostream>
#include <string>
#include <vector>

#include <curvature/core/reducer.hpp>
#include <curvature/model/empirical_risk.hpp>

namespace curvature::testing {

/// A small learning problem in float64 on the test device with PyTorch's own definition of its
/// loss, for dense oracles.
struct Problem {
  std::string name;
  Model model;
  LossPtr loss;
  TensorList inputs;
  at::Tensor targets;
  /// The loss as PyTorch defines it, for any number of examples.
  std::function<at::Tensor(const at::Tensor& output, const at::Tensor& targets, Reduction)>
      reference;
  /// Axis of the output that holds the classes; -1 for the last; 0 if an example is one term.
  int64_t class_axis = -1;

  int64_t num_examples() const { return targets.size(0); }
  EmpiricalRisk risk(int64_t batch_size, RiskOptions options = {}) const {
    return EmpiricalRisk(model, loss, tensor_dataset(inputs, targets, batch_size),
                         std::move(options));
  }
};

/// Two workers that hold the same examples.
class HeldTwice final : public Reducer {
 public:
  void sum(TensorList& contributions) const override {
    for (at::Tensor& tensor : contributions) tensor = 2 * tensor;
  }
};

inline std::ostream& operator<<(std::ostream& out, const Problem& problem) {
  return out << problem.name;
}

/// Architectures (dense, convolutional, recurrent, attention, tied and unused weights, batch norm)
/// x losses (cross-entropy with all its options, MSE, BCE, a differentiable one), each with 20 to
/// 120 parameters.
const std::vector<Problem>& problems();

/// Dense matrices by plain automatic differentiation of the reference over all examples at once,
/// in the order of `risk.space()`, `[D, D]`.
at::Tensor dense_hessian(const Problem& problem, const EmpiricalRisk& risk);
at::Tensor dense_ggn(const Problem& problem, const EmpiricalRisk& risk);
at::Tensor dense_empirical_fisher(const Problem& problem, const EmpiricalRisk& risk);
at::Tensor dense_gradient_covariance(const Problem& problem, const EmpiricalRisk& risk);
/// `[N * outputs, D]`
at::Tensor dense_jacobian(const Problem& problem, const EmpiricalRisk& risk);
/// Gradients of the examples' own losses, `[N, D]`.
at::Tensor dense_example_gradients(const Problem& problem, const EmpiricalRisk& risk);

/// The blocks of `matrix` that belong to one parameter (or to the parameters of one module), zero
/// elsewhere.
at::Tensor keep_blocks(const at::Tensor& matrix, const Space& space, bool by_layer);

}  // namespace curvature::testing
