#pragma once

#include "layerwise/layer_plan.hpp"

namespace curvature::detail {

/// What a few examples say about a forward pass: gradients for a cotangent c without structure, and
/// for w_n c_n with another number w_n for each example n. Rows are example n's if the second are
/// w_n times the first. Costs two backward passes, or one for a single example.
class Probe {
 public:
  /// The output's first axis counts the examples (outermost, if others were merged into it).
  Probe(const Recorded& recorded, int64_t num_examples, const TensorList& parameters);

  int64_t num_examples() const { return num_examples_; }
  /// For c: at the outputs of the uses, undefined where none arrives.
  const TensorList& at_uses() const { return at_uses_; }
  /// For c: at the parameters as columns `[shape..., 1]`, zero where none arrives.
  const TensorList& at_parameters() const { return at_parameters_; }
  /// Whether the gradients at the output of a use do not deny that its examples are there.
  bool allows(size_t use, bool examples_second) const;

 private:
  int64_t num_examples_;
  std::vector<Shape> shapes_;  ///< of the uses' outputs
  TensorList at_uses_, at_parameters_;
  TensorList weighted_;  ///< for w_n c_n, at the uses
  at::Tensor weights_;   ///< w `[N, 1, 1]`
};

/// Largest error of a gradient by a layer rule, relative.
double rule_tolerance(at::ScalarType dtype);

}  // namespace curvature::detail
