#pragma once

#include <filesystem>

#include <torch/torch.h>

#include <curvature/io/idx.hpp>

/// The digits that are part of the tool: images `[N, 1, 8, 8]`, standardised, and their classes.
struct Digits {
  torch::Tensor images, labels;
};

inline Digits load_digits() {
  const std::filesystem::path folder = CURVATURE_DIGITS;
  const auto pixels =
      curvature::read_idx(folder / "digits-images-idx3-ubyte.gz").to(torch::kDouble).unsqueeze(1);
  const auto labels = curvature::read_idx(folder / "digits-labels-idx1-ubyte.gz");
  return {(pixels - pixels.mean()) / pixels.std(), labels.to(torch::kLong)};
}

/// Stochastic gradient descent on the cross-entropy, in batches of 50.
inline void train(torch::nn::Sequential& net, const Digits& data, int epochs) {
  torch::optim::SGD optimizer(net->parameters(), torch::optim::SGDOptions(0.02).momentum(0.9));
  for (int epoch = 0; epoch < epochs; ++epoch) {
    for (const torch::Tensor& batch : torch::randperm(data.labels.size(0)).split(50)) {
      optimizer.zero_grad();
      torch::nll_loss(net->forward(data.images.index({batch})).log_softmax(1),
                      data.labels.index({batch}))
          .backward();
      optimizer.step();
    }
  }
}
