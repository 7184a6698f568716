#include "model/determinism.hpp"

#include <algorithm>
#include <mutex>

#include <ATen/Context.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/cat.h>

#include "core/check.hpp"
#include "core/finite.hpp"

namespace curvature::detail {
namespace {

constexpr const char* kRemedy =
    "call model.eval() first (in Python before torch.jit.script(model).save(\"model.pt\"), in C++ "
    "before Model::from_module)";

/// Restores the states of the generators a model may draw from, and tells whether they moved.
class GeneratorGuard {
 public:
  explicit GeneratorGuard(const at::Device& device) {
    generators_.push_back(at::globalContext().defaultGenerator(at::kCPU));
    if (!device.is_cpu()) generators_.push_back(at::globalContext().defaultGenerator(device));
    for (at::Generator& generator : generators_) states_.push_back(state(generator));
  }
  GeneratorGuard(const GeneratorGuard&) = delete;
  GeneratorGuard& operator=(const GeneratorGuard&) = delete;
  ~GeneratorGuard() {
    for (size_t i = 0; i < generators_.size(); ++i) {
      const std::lock_guard lock(generators_[i].mutex());
      generators_[i].set_state(states_[i]);
    }
  }

  bool moved() {
    for (size_t i = 0; i < generators_.size(); ++i) {
      if (!state(generators_[i]).equal(states_[i])) return true;
    }
    return false;
  }

 private:
  static at::Tensor state(at::Generator& generator) {
    const std::lock_guard lock(generator.mutex());
    return generator.get_state();
  }

  std::vector<at::Generator> generators_;
  TensorList states_;
};

/// Restores buffers that a model changes, and tells whether it did.
class BufferGuard {
 public:
  explicit BufferGuard(const std::vector<NamedTensor>& buffers) : buffers_(buffers) {
    for (const NamedTensor& buffer : buffers_) copies_.push_back(buffer.tensor.detach().clone());
  }
  BufferGuard(const BufferGuard&) = delete;
  BufferGuard& operator=(const BufferGuard&) = delete;
  ~BufferGuard() {
    const at::NoGradGuard no_grad;
    for (const size_t i : changed()) buffers_[i].tensor.copy_(copies_[i]);
  }

  std::vector<size_t> changed() const {
    std::vector<size_t> positions;
    for (size_t i = 0; i < buffers_.size(); ++i) {
      if (!buffers_[i].tensor.equal(copies_[i])) positions.push_back(i);
    }
    return positions;
  }
  const std::string& name(size_t position) const { return buffers_[position].name; }

 private:
  const std::vector<NamedTensor>& buffers_;
  TensorList copies_;
};

/// The examples once more with the first one repeated at the end: another batch with the same
/// content, whose statistics differ. (One example repeated has the same mean: buffers and shapes
/// still tell.)
TensorList with_first_repeated(const TensorList& inputs) {
  TensorList longer;
  for (const at::Tensor& input : inputs) longer.push_back(at::cat({input, input.narrow(0, 0, 1)}));
  return longer;
}

TensorList clones(const TensorList& tensors) {
  TensorList copies;
  for (const at::Tensor& tensor : tensors) copies.push_back(tensor.clone());
  return copies;
}

bool agree(const at::Tensor& a, const at::Tensor& b) {
  const double tolerance = a.scalar_type() == at::kDouble ? 1e-8 : 1e-3;
  const double scale = a.abs().max().item<double>();
  return (a - b).abs().max().item<double>() <= tolerance * scale;
}

}  // namespace

CheckedOutput checked_output(const Model& model, const TensorList& inputs) {
  const at::Tensor& parameter = model.parameters().front().tensor;
  GeneratorGuard generators(parameter.device());
  const BufferGuard buffers(model.buffers());

  const TensorList copies = clones(inputs);
  const at::Tensor output = model(copies);
  const bool changes_inputs = std::any_of(
      copies.begin(), copies.end(), [](const at::Tensor& copy) { return copy._version() > 0; });
  const int64_t count = inputs.front().size(0);
  CURVATURE_CHECK(output.defined() && output.dim() > 0 && output.size(0) == count, ModelError,
                  "Model: the output must have the example axis first; expected [{}, ...], got {}",
                  count, to_string(output.sizes()));
  CURVATURE_CHECK(output.scalar_type() == parameter.scalar_type(), ModelError,
                  "Model: the output must have the parameters' dtype; expected {}, got {}",
                  c10::toString(parameter.scalar_type()), c10::toString(output.scalar_type()));
  CURVATURE_CHECK(output.numel() > 0, ModelError, "Model: the output {} is empty",
                  to_string(output.sizes()));
  CURVATURE_CHECK(detail::is_finite(output), NumericalError,
                  "Model: the output contains NaN or infinity");
  CURVATURE_CHECK(!generators.moved(), ModelError,
                  "Model: the output is random (dropout in training mode?); {}", kRemedy);

  // With gradients, as the first time: without them a model may take another path (nested tensors
  // in nn.TransformerEncoder).
  const at::Tensor longer = model(with_first_repeated(inputs)).detach();
  CURVATURE_CHECK(longer.dim() == output.dim() && longer.size(0) == count + 1, ModelError,
                  "Model: the output does not follow the number of examples: {} for {}, {} for {}",
                  to_string(output.sizes()), count, to_string(longer.sizes()), count + 1);
  CURVATURE_CHECK(longer.sizes().slice(1) == output.sizes().slice(1) &&
                      agree(output.detach(), longer.narrow(0, 0, count)) &&
                      agree(output.detach().narrow(0, 0, 1), longer.narrow(0, count, 1)),
                  ModelError,
                  "Model: the output for an example depends on the other examples of its batch "
                  "(batch statistics in training mode?); {}",
                  kRemedy);
  const std::vector<size_t> changed = buffers.changed();
  CURVATURE_CHECK(changed.empty(), ModelError,
                  "Model: a forward pass changes the buffer '{}' (batch statistics in training "
                  "mode?); {}",
                  buffers.name(changed.front()), kRemedy);
  return {output, changes_inputs};
}

}  // namespace curvature::detail
