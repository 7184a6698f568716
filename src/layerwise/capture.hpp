#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <ATen/core/ivalue.h>
#include <torch/csrc/autograd/function.h>

#include <curvature/core/space.hpp>

namespace curvature::detail {

/// A tensor among the arguments of an operation that is a parameter, or a view of one.
struct ParameterArgument {
  size_t argument;     ///< position among the arguments
  size_t parameter;    ///< position among the parameters
  at::Tensor view;     ///< as the operation got it
  bool is_whole;       ///< the parameter itself, shape and order
  bool is_transposed;  ///< the transpose of a matrix
};

/// One operation of a forward pass that used parameters directly.
struct OperationUse {
  std::string name;                           ///< `aten::linear`
  std::vector<c10::IValue> arguments;         ///< in the order of the schema
  std::vector<ParameterArgument> parameters;  ///< among the arguments
  Shape output_shape;                         ///< of the first output
  torch::autograd::Edge output;               ///< where its gradient arrives, up to a reshape
  /// The same for the tensor arguments, if operations made them; invalid for others.
  std::vector<torch::autograd::Edge> argument_edges = {};
  /// Of the tensor arguments when the operation was done, to notice later writes.
  std::vector<std::optional<uint32_t>> versions;

  const at::Tensor& tensor(size_t argument) const { return arguments[argument].toTensor(); }
  /// The parameter at an argument, if it is one.
  const ParameterArgument* parameter_at(size_t argument) const;
  /// Whether a tensor argument was written to since.
  bool was_written_to(size_t argument) const;
};

/// Runs `forward` and records every outermost operation that has one of `parameters` (or a view of
/// it, with a gradient) among its arguments, in order. Operations that only make views are not
/// uses. In-place operations on an output afterwards do no harm, since the gradient is asked for
/// where it leaves the operation. Nothing is left behind, also if `forward` throws. Watches this
/// thread only.
std::vector<OperationUse> record_uses(const TensorList& parameters,
                                      const std::function<void()>& forward);

/// Gradients of `output` with `cotangent` at the outputs of operations (undefined where none
/// arrives). The graph is kept; parameters' gradients are not computed.
TensorList output_gradients(const at::Tensor& output, const at::Tensor& cotangent,
                            const std::vector<torch::autograd::Edge>& edges);

}  // namespace curvature::detail
