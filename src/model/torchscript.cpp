#include <algorithm>
#include <filesystem>
#include <map>
#include <sstream>
#include <fnmatch.h>

#include <ATen/Context.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/passes/inliner.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <curvature/io/atomic_file.hpp>
#include <curvature/model/torchscript.hpp>

#include "core/check.hpp"
#include "core/translate.hpp"
#include "model/torchscript_archive.hpp"

namespace curvature {
namespace {

constexpr const char* kExport =
    "export it with torch.jit.script(model.eval()).save(\"model.pt\") "
    "(`curvature export-snippet` shows how)";

torch::jit::Module load_module(const std::string& path) {
  std::error_code status;
  CURVATURE_CHECK(std::filesystem::exists(path, status), FileError, "{}: no such file", path);
  CURVATURE_CHECK(std::filesystem::is_regular_file(path, status), FileError,
                  "{}: not a regular file", path);
  try {
    const detail::TorchscriptArchive archive(path);
    torch::jit::Module module =
        torch::jit::load(path, at::Device(at::kCPU), /*load_debug_files=*/false);
    archive.check(module);
    return module;
  } catch (const std::exception& error) {
    throw FileError(fmt::format(
        "{}: not a sound TorchScript archive (a state_dict or a pickled module is none); {}; {}",
        path, detail::one_line_reason(error), kExport));
  }
}

/// Casts and moves in place, so that the interpreter's module sees the change.
void convert(const at::Tensor& tensor, const TorchscriptOptions& options) {
  const bool cast = options.dtype && tensor.is_floating_point();
  const at::ScalarType dtype = cast ? *options.dtype : tensor.scalar_type();
  if (dtype == tensor.scalar_type() && options.device == tensor.device()) return;
  tensor.set_data(tensor.detach().to(options.device, dtype));
}

/// Whether two tensors are the same numbers in memory: weights tied in Python may come back from a
/// file as two tensors on one storage.
bool is_alias(const at::Tensor& a, const at::Tensor& b) {
  return a.numel() > 0 && a.storage().is_alias_of(b.storage()) &&
         a.storage_offset() == b.storage_offset() && a.sizes() == b.sizes() &&
         a.strides() == b.strides();
}

/// Makes tied parameters one tensor again: every slot gets the tensor of the first.
void tie_parameters(const torch::jit::Module& root) {
  TensorList seen;
  for (const torch::jit::Module& module : root.modules()) {
    for (const auto& slot : module.named_parameters(/*recurse=*/false)) {
      const auto first = std::find_if(seen.begin(), seen.end(), [&](const at::Tensor& other) {
        return is_alias(other, slot.value);
      });
      if (first == seen.end()) {
        seen.push_back(slot.value);
      } else if (!first->is_same(slot.value)) {
        torch::jit::Module(module).setattr(slot.name, *first);
      }
    }
  }
}

bool is_selected(const std::string& name, const std::vector<std::string>& patterns) {
  return std::any_of(patterns.begin(), patterns.end(), [&](const std::string& pattern) {
    return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
  });
}

void select_parameters(const std::vector<NamedTensor>& parameters,
                       const std::vector<std::string>& patterns) {
  if (patterns.empty()) return;
  for (const auto& [name, tensor] : parameters) {
    tensor.requires_grad_(is_selected(name, patterns));
  }
}

bool is_known(const at::Tensor& tensor, const std::vector<NamedTensor>& others) {
  return std::any_of(others.begin(), others.end(),
                     [&](const NamedTensor& other) { return other.tensor.is_same(tensor); });
}

bool has_fork(const torch::jit::Block& block) {
  for (const torch::jit::Node* node : block.nodes()) {
    if (node->kind() == torch::jit::prim::fork) return true;
    for (const torch::jit::Block* inner : node->blocks()) {
      if (has_fork(*inner)) return true;
    }
  }
  return false;
}

/// Whether the model starts tasks of its own (`torch.jit.fork`).
bool has_fork(const torch::jit::Method& forward) {
  const auto graph = forward.graph()->copy();
  torch::jit::Inline(*graph);
  return has_fork(*graph->block());
}

/// Runs the tasks of a model in this thread, in turn: what watches operations, or replaces their
/// kernels, does so in one thread.
c10::IValue run_in_turn(torch::jit::Method& method, std::vector<c10::IValue> inputs) {
  const auto future =
      method.run_async(std::move(inputs), {}, [](const std::function<void()>& task) { task(); });
  future->waitAndThrow();
  return future->value();
}

at::Tensor run(const torch::jit::Method& forward, bool forks, const TensorList& inputs) {
  // The optimising executor detaches parameters after a few runs; the switch is per thread.
  const torch::jit::GraphOptimizerEnabledGuard plain_interpreter(false);
  torch::jit::Method method = forward;
  std::vector<c10::IValue> arguments(inputs.begin(), inputs.end());
  const c10::IValue output =
      forks ? run_in_turn(method, std::move(arguments)) : method(std::move(arguments));
  CURVATURE_CHECK(output.isTensor(), ModelError,
                  "TorchScript: forward returns a {}; wrap the model so that it returns one tensor",
                  output.type()->str());
  return output.toTensor();
}

}  // namespace

Model load_torchscript(const std::string& path, const TorchscriptOptions& options) {
  CURVATURE_CHECK(options.device.is_cpu() || at::globalContext().hasCUDA(), OptionError,
                  "{}: device {} is not available", path, options.device.str());
  const torch::jit::Module module = load_module(path);
  const auto forward = module.find_method("forward");
  CURVATURE_CHECK(forward, ModelError, "{}: the module has no forward method; {}", path, kExport);
  tie_parameters(module);

  std::vector<NamedTensor> parameters, buffers;
  for (const auto& slot : module.named_parameters()) {
    if (is_known(slot.value, parameters)) continue;  // a tied one counts under its first name
    const bool is_wanted = options.parameters.empty() ? slot.value.requires_grad()
                                                      : is_selected(slot.name, options.parameters);
    CURVATURE_CHECK(!slot.value.is_complex() || !is_wanted, ModelError,
                    "{}: parameter '{}' must be real; expected float32 or float64, got {}", path,
                    slot.name, c10::toString(slot.value.scalar_type()));
    convert(slot.value, options);
    (slot.value.is_floating_point() ? parameters : buffers).push_back({slot.name, slot.value});
  }
  for (const auto& slot : module.named_buffers()) {
    convert(slot.value, options);
    buffers.push_back({slot.name, slot.value});
  }
  CURVATURE_CHECK(!parameters.empty(), ModelError,
                  "{}: the archive holds no parameters (frozen by torch.jit.freeze?); {}", path,
                  kExport);
  const at::ScalarType dtype = parameters.front().tensor.scalar_type();
  CURVATURE_CHECK(dtype == at::kFloat || dtype == at::kDouble, ModelError,
                  "{}: parameters are {}; choose dtype float32 or float64", path,
                  c10::toString(dtype));
  select_parameters(parameters, options.parameters);
  return Model([forward = *forward, forks = has_fork(*forward)](
                   const TensorList& inputs) { return run(forward, forks, inputs); },
               std::move(parameters), std::move(buffers), path);
}

void save_torchscript(const std::string& path, const std::string& source,
                      const std::vector<NamedTensor>& parameters,
                      const TorchscriptOptions& options) {
  const torch::jit::Module module = load_module(source);
  tie_parameters(module);
  std::map<std::string, at::Tensor> slots;
  for (const auto& slot : module.named_parameters()) {
    convert(slot.value, {.dtype = options.dtype});
    slots[slot.name] = slot.value;
  }
  for (const auto& slot : module.named_buffers()) convert(slot.value, {.dtype = options.dtype});
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : parameters) {
    const auto slot = slots.find(name);
    CURVATURE_CHECK(slot != slots.end() && slot->second.sizes() == tensor.sizes() &&
                        slot->second.scalar_type() == tensor.scalar_type(),
                    OptionError, "{}: has no parameter '{}' of shape {} and dtype {}", source, name,
                    detail::to_string(tensor.sizes()), c10::toString(tensor.scalar_type()));
    slot->second.copy_(tensor);
  }
  // In memory first: an exception must not pass through LibTorch's zip writer.
  std::ostringstream archive;
  module.save(archive);
  write_file_atomically(path, archive.view());
}

std::string export_snippet() {
  return R"(import numpy, torch

model.eval()                                          # dropout off, batch statistics fixed
archive = torch.jit.script(model)                     # or torch.jit.trace(model, example_inputs)
archive.save("model.pt")                              # vectors follow model.named_parameters()
numpy.save("inputs.npy", inputs.numpy())              # example axis first; one file per argument of forward
numpy.save("targets.npy", targets.numpy())            # class indices (int64), or real numbers

# curvature spectrum --model model.pt --inputs inputs.npy --targets targets.npy --operator hessian --top 10
)";
}

}  // namespace curvature
