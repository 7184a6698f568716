#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/optim/momentum.hpp>
#include <curvature/optim/state.hpp>

namespace curvature::optim {

/// What stands for a mode (an axis of a parameter) in a Kronecker product.
enum class ModeKind {
  kDense,     ///< a matrix
  kDiagonal,  ///< its diagonal
  kIdentity,  ///< nothing
};

/// A parameter, or a block of one, as its estimator sees it.
struct ParameterView {
  std::string name;               ///< for messages
  Shape shape;                    ///< d_1, ..., d_k; no mode of size 1
  std::vector<ModeKind> modes;    ///< one for each axis
  at::TensorOptions options;      ///< dtype and device of the state
  std::vector<size_t> axes = {};  ///< of the parameter, where their order is another one here
  int64_t index = 0;  ///< counts an optimizer's views, so that refreshes can be staggered
  /// Hears of trouble that was overcome (a decomposition that failed); empty: nobody does.
  std::function<void(const std::string&)> warn = {};

  int64_t size() const;  ///< d_1 ... d_k
};

/// Adam's second moment V, for a kernel that steps many parameters at once.
struct AdamState {
  at::Tensor* second_moment;  ///< zero at first
  int64_t* num_steps;         ///< taken
  double beta2;               ///< decay
  double epsilon;             ///< added to the root
};

/// A model S of the second moment E[g g^T] of one parameter's gradients, learned from one gradient
/// after another; gives directions S^-1/2 m (or another power) for momenta m.
///
/// Tensors have the view's shape and dtype. A step must not change the gradient it is given.
class CovarianceEstimator {
 public:
  virtual ~CovarianceEstimator() = default;

  /// Takes in a gradient and returns the direction for what `momentum` makes of it, in the order
  /// that the method asks for. The momentum sees each gradient once, in the estimator's
  /// coordinates. Undefined, with nothing changed for the momentum, if the gradient only served to
  /// start.
  virtual at::Tensor step(const at::Tensor& gradient, Momentum& momentum) = 0;
  /// Whether a gradient that only served to start counts as a step along nothing, with decay.
  virtual bool steps_at_start() const { return true; }
  /// From the coordinates in which the momentum is kept to the parameter's own.
  virtual at::Tensor to_parameter(const at::Tensor& x) const { return x; }
  /// S as an operator between plain vectors, frozen: what `step` applies a power of.
  /// @throws NotSupportedError where the method has no such matrix, or has seen nothing yet
  virtual OperatorPtr snapshot() const = 0;

  /// What LibTorch's fused kernel needs of Adam's estimator; nothing from all others.
  virtual std::optional<AdamState> adam() { return std::nullopt; }

  virtual void visit(StateVisitor& visitor) = 0;  ///< see StateVisitor
  /// Bytes of all state once there is any.
  virtual int64_t state_bytes() const = 0;
};

/// Makes the estimator of a parameter. The functions `..._estimator(options)` return these.
using EstimatorFactory =
    std::function<std::unique_ptr<CovarianceEstimator>(const ParameterView& view)>;

}  // namespace curvature::optim
