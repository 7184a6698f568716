// KL-Shampoo on a small network, put together from parts: estimator, momentum, bound, decay, and
// Adam for the parameters of one name.
#include <iostream>

#include <torch/torch.h>

#include <curvature/optim/kl_shampoo_estimator.hpp>
#include <curvature/optim/preconditioned.hpp>

#include "digits.hpp"

namespace optim = curvature::optim;

int main() {
  torch::manual_seed(0);
  const Digits digits = load_digits();
  const torch::Tensor images = digits.images.flatten(1).to(torch::kFloat);
  torch::nn::Sequential net(torch::nn::Linear(64, 32), torch::nn::Tanh(),
                            torch::nn::Linear(32, 10));

  optim::Preconditioned optimizer(net->named_parameters(), optim::kl_shampoo_estimator(),
                                  {.learning_rate = 1e-2,
                                   .momentum = {.beta = 0.9},
                                   .clip = {.rms = 1},
                                   .weight_decay = {.decay = 1e-2},
                                   .routes = {{{"2.*"}, optim::adam_estimator()}}});
  std::cout << "state: " << optimizer.state_bytes() << " bytes\n";
  double loss = 0;
  for (int epoch = 0; epoch < 5; ++epoch) {
    for (const torch::Tensor& batch : torch::randperm(images.size(0)).split(50)) {
      optimizer.zero_grad();
      const torch::Tensor output = net->forward(images.index({batch}));
      const torch::Tensor value =
          torch::nll_loss(output.log_softmax(1), digits.labels.index({batch}));
      value.backward();
      optimizer.step();
      loss = value.item<double>();
    }
    std::cout << "epoch " << epoch << ": loss of the last batch " << loss << '\n';
  }
  std::cout << "the first layer's operator: " << optimizer.snapshot("0.weight").front()->describe()
            << '\n';
  if (!(loss < 0.3)) std::cout << "wrong: the loss is " << loss << '\n';
}
