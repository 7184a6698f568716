#pragma once

#include <torch/csrc/jit/api/module.h>

#include <curvature/core/random.hpp>
#include <curvature/model/model.hpp>

namespace curvature::cli {

/// Two convolutions and two linear layers with GELU between them, for square images with one
/// channel.
struct NetworkShape {
  int64_t image_size = 28;
  int64_t kernel_size = 5;
  int64_t stride = 2;  ///< of the first convolution; the second has 2
  int64_t channels[2] = {6, 16};
  int64_t hidden = 32;
  int64_t num_classes = 10;
};

/// The network as a TorchScript module that maps `[B, 1, S, S]` to logits `[B, num_classes]`, with
/// PyTorch's default initialisation: uniform in +-1/sqrt(inputs of a unit).
torch::jit::Module make_network(const NetworkShape& shape, const RandomSource& random);

/// The logits of `network`, with a graph if gradients are on.
at::Tensor predict(const torch::jit::Module& network, const at::Tensor& images);

/// The module as curvature sees it; parameters are shared.
Model as_model(const torch::jit::Module& network);

/// Part of `images` that `network` puts into the right class.
double accuracy(const torch::jit::Module& network, const at::Tensor& images,
                const at::Tensor& labels);

/// The bytes of the TorchScript archive.
std::string serialize(const torch::jit::Module& network);

}  // namespace curvature::cli
