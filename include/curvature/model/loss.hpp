#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>

#include <curvature/core/random.hpp>

namespace curvature {

/// Second-order information of a loss at fixed outputs and targets, as rows: row r of R holds the C
/// numbers of one loss term. All of it is for *unreduced* terms.
class LossPoint {
 public:
  virtual ~LossPoint() = default;
  /// Gradients of the terms with respect to their outputs, `[R, C]`.
  virtual at::Tensor gradient() const = 0;
  /// H_r v_r for K columns, `[R, C, K]` in and out; H_r is the Hessian of term r, `[C, C]`.
  virtual at::Tensor hessian_product(const at::Tensor& v) const = 0;
  /// S with S_r S_r^T = H_r, `[R, C, V]`. @throws NumericalError if some H_r is not positive
  /// semidefinite
  virtual at::Tensor hessian_root() const = 0;
  /// Random vectors `[R, C, M]` whose second moment is H_r: gradients at labels drawn from the
  /// model's own distribution (Fisher's information). Draw m of row r depends on the seed, m, and
  /// the example and position of the row, not on the batch: `first_example` is the number of the
  /// batch's first example, each example owning R / `num_examples` consecutive rows.
  virtual at::Tensor samples(const RandomSource& random, int64_t first_example,
                             int64_t num_examples, int64_t draws) const = 0;
};

/// Compares a model's output with targets. A loss *term* is one row of the output: C numbers along
/// the class axis, for one example and position.
class Loss {
 public:
  virtual ~Loss() = default;
  /// For messages: `cross-entropy`.
  virtual std::string name() const = 0;

  /// The output `[B, ...]` as rows `[R, C]`: class axis last, rows of an example consecutive.
  /// Differentiable, a view where possible. @throws ModelError if the output does not fit the loss
  virtual at::Tensor rows(const at::Tensor& output) const = 0;
  /// Undoes `rows`: `[R, C]` or `[R, C, K]`... back to the shape of `output` (`K` last).
  virtual at::Tensor unrows(const at::Tensor& rows, const at::Tensor& output) const = 0;

  /// Checks the values of a batch's targets: dtype, finite, labels among `num_classes`, 0/1 labels
  /// in [0, 1].
  /// @throws DataError
  virtual void check_targets(const at::Tensor& targets, int64_t num_classes,
                             at::ScalarType dtype) const = 0;
  /// The unreduced terms `[R]`, each summed over its C numbers; differentiable in `output`.
  /// @throws DataError if the shapes of output and targets differ (nothing is broadcast)
  virtual at::Tensor terms(const at::Tensor& output, const at::Tensor& targets) const = 0;
  /// Second-order information at an output (without graph).
  virtual std::unique_ptr<const LossPoint> at(const at::Tensor& output,
                                              const at::Tensor& targets) const = 0;
  /// What `mean` divides by: the number of loss terms (times C for MSE and BCE; the sum of the
  /// class weights of the labels for weighted cross-entropy; labels to be ignored not counted), per
  /// example,
  /// `[B]`, float64.
  virtual at::Tensor normalizers(const at::Tensor& targets) const = 0;
};
using LossPtr = std::shared_ptr<const Loss>;

/// PyTorch's options of the same names.
struct CrossEntropyOptions {
  int64_t class_axis = -1;     ///< axis of the output that holds the classes
  at::Tensor class_weights{};  ///< `[C]`, undefined means ones
  double label_smoothing = 0;  ///< in [0, 1]
  std::optional<int64_t>
      ignore_index{};  ///< label whose terms do not count; empty: every label must be a class
};
/// PyTorch's cross-entropy of logits; targets are class indices (integers, no class axis) or class
/// probabilities (floating point, the output's shape).
LossPtr cross_entropy(CrossEntropyOptions options = {});

/// What a loss term is.
struct MeanSquaredErrorOptions {
  int64_t class_axis = -1;  ///< axis that holds the C numbers of a term; an output `[B]` has C = 1
};
/// PyTorch's MSE, sum_c (f_c - y_c)^2 per term, without a factor 1/2.
LossPtr mean_squared_error(MeanSquaredErrorOptions options = {});

/// What a loss term is, and how positive labels weigh.
struct BinaryCrossEntropyOptions {
  int64_t class_axis = -1;        ///< as in MeanSquaredErrorOptions
  at::Tensor positive_weights{};  ///< `[C]` or a scalar: PyTorch's pos_weight; undefined means ones
};
/// PyTorch's BCE with logits; targets in [0, 1].
LossPtr binary_cross_entropy_with_logits(BinaryCrossEntropyOptions options = {});

/// Any twice differentiable loss: `function(output, targets)` returns one number per example,
/// `[B]`. One term per example; its C numbers are all the example's outputs. Second-order
/// information comes from automatic differentiation; samples are Gaussian with covariance H.
LossPtr differentiable_loss(
    std::function<at::Tensor(const at::Tensor& output, const at::Tensor& targets)> function,
    std::string name = "differentiable-loss");

}  // namespace curvature
