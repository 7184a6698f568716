#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <curvature/core/memo.hpp>
#include <curvature/core/progress.hpp>
#include <curvature/core/reducer.hpp>
#include <curvature/core/space.hpp>
#include <curvature/model/dataset.hpp>
#include <curvature/model/loss.hpp>
#include <curvature/model/model.hpp>

namespace curvature {

enum class Reduction {
  kMean,  ///< PyTorch's mean over all loss terms of the data set
  kSum,
};

/// What of the model is differentiated, and how loss terms are summed.
struct RiskOptions {
  Reduction reduction = Reduction::kMean;  ///< of the loss terms
  /// Names or shell patterns of the parameters to differentiate, in the order wanted (patterns
  /// expand in the model's order); empty: all that require gradients.
  std::vector<std::string> parameters{};
  /// Adds weight_decay / 2 times the squared norm of the selected parameters.
  double weight_decay = 0;
  /// Sums over the workers that share the data; null: this process has it all.
  std::shared_ptr<const Reducer> reducer{};
  /// Number of this worker's first example, so that workers draw different random numbers.
  int64_t first_example = 0;
};

/// J(theta) and its gradient, of one pass.
struct LossAndGradient {
  double loss = 0;      ///< J
  TensorList gradient;  ///< of J, one tensor per parameter
};

class EmpiricalRisk;

/// One batch of a risk: what it contributes to J. A cheap view without repeated checks; the risk
/// must outlive it.
class BatchRisk {
 public:
  /// `EmpiricalRisk::on` makes them.
  BatchRisk(const EmpiricalRisk& risk, Batch batch, int64_t first_example)
      : risk_(&risk), batch_(std::move(batch)), first_example_(first_example) {}

  /// The examples, on the model's device.
  const Batch& batch() const noexcept { return batch_; }
  /// Number of the batch's first example, by which random draws are told apart.
  int64_t first_example() const noexcept { return first_example_; }
  /// The model's output `[B, ...]`, with a graph if gradients are on.
  at::Tensor predict() const;
  /// k sum_r w_r l_r, a scalar with the graph of `output`; weight decay is not in it.
  at::Tensor objective(const at::Tensor& output) const;
  /// k w_r for `num_terms` loss terms: `[R]`, or a scalar if no example has a weight.
  at::Tensor term_weights(int64_t num_terms) const;
  /// Second-order information of the unreduced terms at `output`.
  std::unique_ptr<const LossPoint> loss_point(const at::Tensor& output) const;

 private:
  const EmpiricalRisk* risk_;
  Batch batch_;
  int64_t first_example_;
};

/// J(theta) = k sum_r w_r l(f(x)_r, y_r) + weight_decay / 2 |theta|^2: model x loss x data x
/// reduction.
///
/// w_r is the weight of the term's example and k is 1 for `sum`; for `mean` it is 1 over the
/// weighted number of terms (cross-entropy) or of output numbers (MSE, BCE), so that a weight of 2
/// is the example twice. Immutable and cheap to copy; const methods may be called concurrently.
class EmpiricalRisk {
 public:
  /// Reads the data once to check and count them, and runs the model on a few examples to make sure
  /// that it is a deterministic function of its parameters that treats each example alone.
  /// @throws DataError, ModelError, OptionError
  EmpiricalRisk(Model model, LossPtr loss, DatasetPtr data, RiskOptions options = {});

  /// The layout of the selected parameters: names, shapes, order.
  const Space& space() const;
  /// The selected parameters.
  const TensorList& parameters() const;
  const Model& model() const;          ///< as given
  const Loss& loss_function() const;   ///< as given
  const Dataset& data() const;         ///< as given
  const RiskOptions& options() const;  ///< as given
  const Reducer& reducer() const;      ///< as given; in-process if none was

  int64_t num_examples() const;        ///< N, over all workers
  int64_t num_local_examples() const;  ///< of this worker
  double total_weight() const;         ///< sum of the examples' weights, N if they have none
  double scale() const;                ///< k
  /// Shape of the output for one example (of the first batch), without the example axis.
  const Shape& output_shape() const;
  /// Names of selected parameters that the model does not use (on the examples tried at
  /// construction).
  const std::vector<std::string>& unused_parameters() const;

  /// J(theta).
  double loss(const Observer& observer = {}) const;
  /// Gradient of J, one tensor per parameter. Costs one gradient.
  TensorList gradient(const Observer& observer = {}) const;
  /// Both from one pass. Costs one gradient.
  /// @throws NumericalError that names the first parameter whose gradient is not finite
  LossAndGradient loss_and_gradient(const Observer& observer = {}) const;

  /// Batch `index` of the data, on the model's device.
  /// @throws OptionError if there is no such batch, ModelError if a parameter was frozen meanwhile
  BatchRisk on(int64_t index) const;
  /// A batch that is not in the data, with this risk's scale.
  BatchRisk on(Batch batch, int64_t first_example) const;
  /// The same risk for other parameters of the same model (names or patterns); the rest are
  /// constants.
  EmpiricalRisk with_parameters(const std::vector<std::string>& parameters) const;

  /// The same risk of other examples, as training needs it in every step: the data are checked and
  /// counted (`mean` is over them alone), the model is not tried again. `first_example` is the
  /// number of the first one, by which random draws are told apart. @throws DataError
  EmpiricalRisk with_data(DatasetPtr data, int64_t first_example = 0) const;

  /// What modules built on risks found out about this one and its copies (which layers its model
  /// has), kept as long as they live. It must not depend on the parameters' values.
  Memo& memo() const;

  /// Versions of all parameters and buffers; they grow with every in-place change.
  std::vector<int64_t> versions() const;
  /// @throws StaleOperatorError, in the name of `who`, if `versions()` no longer is `expected`
  void check_versions(const std::vector<int64_t>& expected, const std::string& who) const;

 private:
  friend class BatchRisk;
  struct State;
  std::shared_ptr<const State> state_;
  explicit EmpiricalRisk(std::shared_ptr<const State> state);
};

}  // namespace curvature
