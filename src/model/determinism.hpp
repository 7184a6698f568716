#pragma once

#include <curvature/model/model.hpp>

namespace curvature::detail {

/// What a model does with examples.
struct CheckedOutput {
  at::Tensor output;
  bool changes_inputs = false;  ///< `inputs` themselves are spared
};

/// The model's output for `inputs`, after making sure that the model is a deterministic function
/// that treats each example alone and changes nothing: no random numbers drawn (dropout), the same
/// result in another batch (batch statistics), the same buffers afterwards. Random number
/// generators and buffers are left as they were, also if a check fails.
/// @throws ModelError that says how to export the model
CheckedOutput checked_output(const Model& model, const TensorList& inputs);

}  // namespace curvature::detail
