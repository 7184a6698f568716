#include "layerwise/capture.hpp"

#include <algorithm>
#include <memory>

#include <ATen/core/function_schema.h>
#include <ATen/record_function.h>
#include <torch/csrc/autograd/engine.h>
#include <torch/csrc/autograd/variable.h>

#include "core/check.hpp"
#include "core/fast_kernels.hpp"

namespace curvature::detail {
namespace {

/// Recognises parameters by the memory they live in, so that views count too.
class ParameterMemory {
 public:
  explicit ParameterMemory(const TensorList& parameters) : parameters_(parameters) {}

  std::optional<ParameterArgument> find(size_t argument, const at::Tensor& tensor) const {
    if (!tensor.defined() || !tensor.requires_grad() || !tensor.has_storage()) return std::nullopt;
    for (size_t i = 0; i < parameters_.size(); ++i) {
      const at::Tensor& parameter = parameters_[i];
      if (!tensor.is_alias_of(parameter) || !contains(parameter, tensor)) continue;
      const bool same_start = tensor.storage_offset() == parameter.storage_offset();
      const bool is_whole = same_start && tensor.sizes() == parameter.sizes() &&
                            tensor.strides() == parameter.strides();
      const bool is_transposed = same_start && parameter.dim() == 2 && tensor.dim() == 2 &&
                                 swapped(tensor.sizes(), parameter.sizes()) &&
                                 swapped(tensor.strides(), parameter.strides());
      // A square matrix is both only if it is symmetric in memory: never, beyond 1 by 1.
      return ParameterArgument{argument, i, tensor, is_whole, is_transposed && !is_whole};
    }
    return std::nullopt;
  }

 private:
  /// Several parameters may share one storage (flattened recurrent weights).
  static bool contains(const at::Tensor& parameter, const at::Tensor& view) {
    const int64_t begin = parameter.storage_offset();
    return view.storage_offset() >= begin && view.storage_offset() < begin + parameter.numel();
  }

  /// Calls no operation: those would be recorded too.
  static bool swapped(c10::IntArrayRef a, c10::IntArrayRef b) {
    return a[0] == b[1] && a[1] == b[0];
  }

  const TensorList& parameters_;
};

/// What is recorded in this thread.
struct Recording {
  ParameterMemory memory;
  bool inside = false;  // an operation that uses parameters; what it calls is its own business
  std::vector<OperationUse> uses;
};
thread_local Recording* current = nullptr;

/// Carries a use from its start to its end.
struct UseContext final : at::ObserverContext {
  OperationUse use;
};

/// The arguments of an operation: the interpreter passes its whole stack, of which they are the
/// last. The same holds for results.
std::vector<c10::IValue> arguments_of(const at::RecordFunction& function) {
  c10::ArrayRef<const c10::IValue> inputs = function.inputs();
  if (const auto schema = function.operator_schema()) {
    const size_t count = schema->arguments().size();
    if (inputs.size() > count) inputs = inputs.slice(inputs.size() - count, count);
  }
  return std::vector<c10::IValue>(inputs.begin(), inputs.end());
}

void add_parameters(const ParameterMemory& memory, size_t argument, const c10::IValue& value,
                    std::vector<ParameterArgument>& found) {
  if (value.isTensor()) {
    if (auto parameter = memory.find(argument, value.toTensor())) found.push_back(*parameter);
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorVector()) {
      if (auto parameter = memory.find(argument, tensor)) found.push_back(*parameter);
    }
  }
}

/// A tensor with the same entries in the same order that a view does not hide: if an operation ends
/// with a view of its result, an in-place operation on that view takes the view out of the graph,
/// but not its base.
at::Tensor unviewed(const at::Tensor& tensor) {
  if (!tensor.is_view()) return tensor;
  const at::TensorBase& viewed = tensor._base();
  const at::Tensor base(viewed);
  const bool same_entries = base.numel() == tensor.numel() && base.is_contiguous() &&
                            tensor.is_contiguous() && base.requires_grad();
  return same_entries ? base : tensor;
}

/// Where the gradient of an output arrives whatever is done to it later.
at::Tensor edge_tensor(const at::Tensor& output, const OperationUse& use) {
  at::Tensor base = unviewed(output);
  for (const c10::IValue& argument : use.arguments) {
    if (!argument.isTensor() || !argument.toTensor().defined()) continue;
    if (base.is_alias_of(argument.toTensor())) return output;
  }
  return base;
}

torch::autograd::Edge edge_of_argument(const c10::IValue& argument) {
  if (!argument.isTensor() || !argument.toTensor().defined()) return {};
  const at::Tensor& tensor = argument.toTensor();
  if (!tensor.requires_grad() || tensor.is_leaf()) return {};
  return torch::autograd::impl::gradient_edge(unviewed(tensor));
}

std::unique_ptr<at::ObserverContext> on_start(const at::RecordFunction& function) {
  Recording* recording = current;
  if (recording == nullptr || recording->inside) return nullptr;
  auto context = std::make_unique<UseContext>();
  OperationUse& use = context->use;
  use.arguments = arguments_of(function);
  for (size_t i = 0; i < use.arguments.size(); ++i) {
    add_parameters(recording->memory, i, use.arguments[i], use.parameters);
  }
  if (use.parameters.empty()) return nullptr;
  for (const c10::IValue& argument : use.arguments) {
    use.argument_edges.push_back(edge_of_argument(argument));
  }
  use.name = function.name();
  recording->inside = true;
  return context;
}

void on_end(const at::RecordFunction& function, at::ObserverContext* context) {
  Recording* recording = current;
  if (recording == nullptr || context == nullptr) return;
  recording->inside = false;
  OperationUse& use = static_cast<UseContext*>(context)->use;
  const std::vector<c10::IValue>& outputs = function.outputs();
  const auto schema = function.operator_schema();
  const size_t count = schema ? schema->returns().size() : outputs.size();
  if (count == 0 || outputs.size() < count) return;
  const c10::IValue& first = outputs[outputs.size() - count];
  if (!first.isTensor()) return;
  const at::Tensor& output = first.toTensor();
  if (!output.defined() || !output.requires_grad()) return;
  for (const ParameterArgument& parameter : use.parameters) {
    if (output.is_alias_of(parameter.view)) return;  // a view
  }
  use.output = torch::autograd::impl::gradient_edge(edge_tensor(output, use));
  use.output_shape = output.sizes().vec();
  for (const c10::IValue& argument : use.arguments) {
    // An operation in place leaves its output where an input was.
    const bool is_input = argument.isTensor() && argument.toTensor().defined() &&
                          !argument.toTensor().is_same(output);
    use.versions.push_back(is_input ? std::optional(argument.toTensor()._version()) : std::nullopt);
  }
  recording->uses.push_back(std::move(use));
}

/// Watches this thread as long as it lives.
class Watch {
 public:
  explicit Watch(Recording& recording)
      : before_(current),
        handle_(at::addThreadLocalCallback(at::RecordFunctionCallback(on_start, on_end)
                                               .needsInputs(true)
                                               .needsOutputs(true)
                                               .scopes({at::RecordScope::FUNCTION}))) {
    current = &recording;
  }
  ~Watch() {
    current = before_;
    at::removeCallback(handle_);
  }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

 private:
  Recording* before_;
  at::CallbackHandle handle_;
};

}  // namespace

const ParameterArgument* OperationUse::parameter_at(size_t argument) const {
  const auto found = std::find_if(
      parameters.begin(), parameters.end(),
      [argument](const ParameterArgument& parameter) { return parameter.argument == argument; });
  return found == parameters.end() ? nullptr : &*found;
}

bool OperationUse::was_written_to(size_t argument) const {
  return versions[argument] && tensor(argument)._version() != *versions[argument];
}

std::vector<OperationUse> record_uses(const TensorList& parameters,
                                      const std::function<void()>& forward) {
  Recording recording{.memory = ParameterMemory(parameters), .uses = {}};
  {
    const Watch watch(recording);
    forward();
  }
  return std::move(recording.uses);
}

TensorList output_gradients(const at::Tensor& output, const at::Tensor& cotangent,
                            const std::vector<torch::autograd::Edge>& edges) {
  if (edges.empty() || !output.requires_grad()) return TensorList(edges.size());
  const FastKernels fast;
  return torch::autograd::Engine::get_default_engine().execute(
      {torch::autograd::impl::gradient_edge(output)}, {cotangent}, /*keep_graph=*/true,
      /*create_graph=*/false, /*accumulate_grad=*/false, edges);
}

}  // namespace curvature::detail
