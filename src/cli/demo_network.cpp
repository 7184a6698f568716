#include <cmath>
#include <sstream>

#include <ATen/core/grad_mode.h>
#include <torch/csrc/jit/runtime/graph_executor.h>

#include "cli/demo_network.hpp"
#include "core/check.hpp"

namespace curvature::cli {
namespace {

using torch::jit::Module;

/// An empty module in evaluation mode; Python expects the flag.
Module make_module(const std::string& name) {
  Module module("__torch__." + name);
  module.register_attribute("training", c10::BoolType::get(), false);
  return module;
}

/// Adds a module `name` with a weight of `shape` and a bias.
void add_layer(Module& network, const std::string& name, const Shape& shape,
               const RandomSource& random) {
  const uint64_t stream = 2 * network.named_parameters().size();
  const int64_t num_weights = c10::multiply_integers(shape);
  const double bound = 1 / std::sqrt(static_cast<double>(num_weights / shape.front()));
  const auto draw = [&](uint64_t number, int64_t count) {
    return random.uniform(number, count).mul(2 * bound).sub(bound).to(at::kFloat);
  };
  Module layer = make_module(name);
  layer.register_parameter("weight", draw(stream, num_weights).view(shape).requires_grad_(), false);
  layer.register_parameter("bias", draw(stream + 1, shape.front()).requires_grad_(), false);
  network.register_module(name, layer);
}

}  // namespace

Module make_network(const NetworkShape& shape, const RandomSource& random) {
  const int64_t padding = shape.kernel_size / 2;
  const auto halve = [](int64_t size, int64_t stride) { return (size + stride - 1) / stride; };
  const int64_t size = halve(halve(shape.image_size, shape.stride), 2);
  const int64_t kernel = shape.kernel_size;

  Module network = make_module("ConvNet");
  add_layer(network, "conv1", {shape.channels[0], 1, kernel, kernel}, random);
  add_layer(network, "conv2", {shape.channels[1], shape.channels[0], kernel, kernel}, random);
  add_layer(network, "linear1", {shape.hidden, shape.channels[1] * size * size}, random);
  add_layer(network, "linear2", {shape.num_classes, shape.hidden}, random);
  network.define(fmt::format(
      R"(
def forward(self, images):
    x = torch.gelu(torch.conv2d(images, self.conv1.weight, self.conv1.bias, [{0}, {0}], [{1}, {1}]))
    x = torch.gelu(torch.conv2d(x, self.conv2.weight, self.conv2.bias, [2, 2], [{1}, {1}]))
    x = torch.gelu(torch.linear(torch.flatten(x, 1), self.linear1.weight, self.linear1.bias))
    return torch.linear(x, self.linear2.weight, self.linear2.bias)
)",
      shape.stride, padding));
  return network;
}

at::Tensor predict(const Module& network, const at::Tensor& images) {
  // The optimising executor detaches parameters after a few runs.
  const torch::jit::GraphOptimizerEnabledGuard plain_interpreter(false);
  return network.get_method("forward")({images}).toTensor();
}

Model as_model(const Module& network) {
  std::vector<NamedTensor> parameters;
  for (const auto& slot : network.named_parameters()) parameters.push_back({slot.name, slot.value});
  return Model([network](const TensorList& inputs) { return predict(network, inputs.front()); },
               std::move(parameters), {}, "the demo's network");
}

double accuracy(const Module& network, const at::Tensor& images, const at::Tensor& labels) {
  const at::NoGradGuard no_grad;
  int64_t correct = 0;
  constexpr int64_t kChunk = 1000;  // bounds the memory for activations
  for (int64_t first = 0; first < images.size(0); first += kChunk) {
    const int64_t last = std::min(first + kChunk, images.size(0));
    const at::Tensor classes = predict(network, images.slice(0, first, last)).argmax(1);
    correct += classes.eq(labels.slice(0, first, last)).sum().item<int64_t>();
  }
  return static_cast<double>(correct) / static_cast<double>(images.size(0));
}

std::string serialize(const Module& network) {
  std::ostringstream archive;
  network.save(archive);
  return archive.str();
}

}  // namespace curvature::cli
