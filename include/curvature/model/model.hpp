#pragma once

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/intrusive_ptr.h>

#include <curvature/core/space.hpp>

namespace curvature {

/// A tensor with the name its model gives it.
struct NamedTensor {
  std::string name;   ///< as `named_parameters()` gives it
  at::Tensor tensor;  ///< shared with the model
};

/// A differentiable function of tensors with named parameters. Cheap to copy; copies share the
/// parameters.
///
/// Any callable becomes a model: a `torch::nn` module (`Model::from_module`), a TorchScript file
/// (`load_torchscript`), a lambda. The example axis is the first of every input and of the output.
class Model {
 public:
  /// The forward pass.
  using Function = std::function<at::Tensor(const TensorList& inputs)>;

  /// A callable that reads `parameters` (leaf tensors that require gradients if they are to be
  /// differentiated) and may read `buffers`. A tensor given under two names counts once, under the
  /// first. `function` must be callable concurrently if operators are.
  /// @throws ModelError if there is no parameter, or parameters differ in dtype or device
  Model(Function function, std::vector<NamedTensor> parameters,
        std::vector<NamedTensor> buffers = {}, std::string description = "function");

  /// A `torch::nn` module (holder or shared pointer) whose `forward` takes 1 to 4 tensors. The
  /// module is shared, not copied. Include the module's own header.
  template <class Net>
  static Model from_module(Net net);

  /// The model's output for `inputs`, with an autograd graph if gradients are on.
  /// @throws ModelError that wraps what the model threw
  at::Tensor operator()(const TensorList& inputs) const;

  /// The parameters in the model's order, each tensor once.
  const std::vector<NamedTensor>& parameters() const noexcept { return parameters_; }
  /// Tensors that influence the output but are not differentiated (batch norm's statistics).
  const std::vector<NamedTensor>& buffers() const noexcept { return buffers_; }
  /// For messages: `module`, or the file it came from.
  const std::string& description() const noexcept { return description_; }

 private:
  Function function_;
  std::vector<NamedTensor> parameters_;
  std::vector<NamedTensor> buffers_;
  std::string description_;
};

/// Names of the parameters that match any of the shell patterns (`fc*.weight`), in the model's
/// order.
/// @throws OptionError if a pattern matches none
std::vector<std::string> match_parameters(const Model& model,
                                          const std::vector<std::string>& patterns);

namespace detail {

template <class Net>
at::Tensor call_module(Net& net, const TensorList& x) {
  const auto& t = x.front();
  if constexpr (requires { net->forward(t); }) {
    if (x.size() == 1) return net->forward(x[0]);
  }
  if constexpr (requires { net->forward(t, t); }) {
    if (x.size() == 2) return net->forward(x[0], x[1]);
  }
  if constexpr (requires { net->forward(t, t, t); }) {
    if (x.size() == 3) return net->forward(x[0], x[1], x[2]);
  }
  if constexpr (requires { net->forward(t, t, t, t); }) {
    if (x.size() == 4) return net->forward(x[0], x[1], x[2], x[3]);
  }
  throw std::invalid_argument("forward does not take " + std::to_string(x.size()) + " tensors");
}

}  // namespace detail

template <class Net>
Model Model::from_module(Net net) {
  std::vector<NamedTensor> parameters, buffers;
  for (const auto& item : net->named_parameters()) parameters.push_back({item.key(), item.value()});
  for (const auto& item : net->named_buffers()) buffers.push_back({item.key(), item.value()});
  return Model([net](const TensorList& x) mutable { return detail::call_module(net, x); },
               std::move(parameters), std::move(buffers), "module");
}

}  // namespace curvature
