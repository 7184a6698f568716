#pragma once

#include <memory>
#include <string>
#include <vector>

#include "optim/tensor_view.hpp"

namespace curvature::optim {

/// What a graft keeps: the second moment of the simpler method.
class GraftedLength {
 public:
  explicit GraftedLength(const GraftOptions& options) : options_(options) {}

  bool has_state() const {
    return options_.kind == Graft::kAdam || options_.kind == Graft::kRmsProp;
  }
  /// `direction` with the length of the simpler method's, or that one as long as it alone counts.
  /// All three in the parameter's coordinates; `momentum` is read where the kind needs it.
  at::Tensor operator()(const at::Tensor& direction, const at::Tensor& gradient,
                        const ScaledTensor& momentum);
  void visit(StateVisitor& visitor);

 private:
  at::Tensor base_direction(const at::Tensor& gradient, const ScaledTensor& momentum);

  GraftOptions options_;
  at::Tensor second_moment_;
  int64_t t_ = 0;
};

/// A parameter in an optimizer: its blocks with their estimators, and what the update rule keeps.
struct Preconditioned::Member {
  /// One block of the viewed parameter.
  struct Part {
    Block block;
    std::unique_ptr<CovarianceEstimator> estimator;
    Momentum before;  ///< fed with the block's gradient, in the estimator's coordinates
    GraftedLength graft;
  };

  /// @throws OptionError, ShapeError
  Member(NamedTensor named, size_t group, const ParameterGroup& options, int64_t index);

  /// The direction for a gradient, in the parameter's shape, not to be changed; undefined if the
  /// gradient only served to start.
  at::Tensor direction(const at::Tensor& gradient);
  /// theta <- theta - rate direction, with decay and averages.
  void move(const at::Tensor& direction, double rate);
  void update_average();  ///< after a move, where averages are kept
  /// The state of Adam's kernel if a step of this member is one of AdamW.
  std::optional<AdamState> fused_state();

  void evaluate();           ///< puts averages into the parameter
  void continue_training();  ///< takes them out

  void visit(StateVisitor& visitor);                 ///< but for the parts
  void visit_part(size_t i, StateVisitor& visitor);  ///< the i-th
  std::string layout() const;                        ///< the parameter's shape and its blocks'
  int64_t state_bytes() const;

  std::string name;
  at::Tensor parameter;
  size_t group;
  PreconditionedOptions options;
  Shape shape;  ///< of the view
  std::vector<Part> parts;
  Momentum after{{}};        ///< fed with directions
  at::Tensor average;        ///< of the iterates; z of schedule-free
  double squared_rates = 0;  ///< sum over steps, of schedule-free
  int64_t averaged_steps = 0;
  at::Tensor kept;  ///< the iterate of training while averages are evaluated
};

}  // namespace curvature::optim
