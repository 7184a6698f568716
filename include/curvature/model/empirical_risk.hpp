#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

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

struct RiskOptions {
  Reduction reduction = Reduction::kMean;
  /// Names or shell patterns of the parameters to differentiate, in the order wanted (patterns expand in
  /// the model's order); empty: all that require gradients.
  std::vector<std::string> parameters;
  /// Adds weight_decay / 2 times the squared norm of the selected parameters.
  double weight_decay = 0;
  /// Sums over the workers that share the data; null: this process has it all.
  std::shared_ptr<const Reducer> reducer;
};

/// J(theta) = k sum_r w_r l(f(x)_r, y_r) + weight_decay / 2 |theta|^2: model x loss x data x reduction.
///
/// w_r is the weight of the term's example and k is 1 for `sum`; for `mean` it is 1 over the weighted number
/// of terms (cross-entropy) or of output numbers (MSE, BCE), so that a weight of 2 is the example twice.
/// Immutable and cheap to copy; const methods may be called concurrently.
class EmpiricalRisk {
 public:
  /// Reads the data once to check and count them, and runs the model on a few examples to make sure that it
  /// is a deterministic function of its parameters that treats each example alone.
  /// @throws DataError, ModelError, OptionError
  EmpiricalRisk(Model model, LossPtr loss, DatasetPtr data, RiskOptions options = {});

  /// The layout of the selected parameters: names, shapes, order.
  const Space& space() const;
  /// The selected parameters.
  const TensorList& parameters() const;
  const Model& model() const;
  const Loss& loss_function() const;
  const Dataset& data() const;
  const RiskOptions& options() const;
  const Reducer& reducer() const;

  int64_t num_examples() const;            ///< N, over all workers
  double scale() const;                    ///< k
  int64_t first_example(int64_t batch) const;  ///< number of the first example of a batch
  const Shape& output_shape() const;       ///< of one example, without the example axis
  /// Names of selected parameters that the model does not use (on the examples tried at construction).
  const std::vector<std::string>& unused_parameters() const;

  /// J(theta).
  double loss(const Observer& observer = {}) const;
  /// Gradient of J, one tensor per parameter. Costs one gradient.
  TensorList gradient(const Observer& observer = {}) const;

  /// Batch `index` on the model's device, checked at construction.
  Batch batch(int64_t index) const;
  /// The same risk for other parameters of the same model (the others are constants). No new checks.
  EmpiricalRisk with_parameters(const std::vector<std::string>& names) const;
  /// The same risk for other data.
  EmpiricalRisk with_data(DatasetPtr data) const;

  /// Throws StaleOperatorError if parameters or buffers changed since `versions` was taken.
  std::vector<int64_t> versions() const;
  void check_versions(const std::vector<int64_t>& versions, const std::string& who) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
  explicit EmpiricalRisk(std::shared_ptr<const State> state);
};

}  // namespace curvature
