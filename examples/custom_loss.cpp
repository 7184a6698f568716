// Any callable is a model, and any differentiable function a loss: Poisson regression, whose GGN in
// closed form is (1/N) sum of exp(x^T w) x x^T.
#include <iostream>

#include <torch/torch.h>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/model/empirical_risk.hpp>

int main() {
  torch::manual_seed(0);
  const torch::Tensor x = torch::randn({50, 4}, torch::kDouble);
  const torch::Tensor counts = torch::poisson(torch::ones({50, 1}, torch::kDouble));
  const torch::Tensor w = torch::zeros({4, 1}, torch::kDouble).fill_(0.1).requires_grad_();

  const curvature::Model model(
      [w](const curvature::TensorList& inputs) { return inputs[0].matmul(w); }, {{"w", w}});
  // One number per example: the negative log-likelihood of the counts.
  const auto poisson = curvature::differentiable_loss(
      [](const torch::Tensor& log_rate, const torch::Tensor& targets) {
        return (log_rate.exp() - targets * log_rate).sum(1);
      },
      "poisson");
  const curvature::EmpiricalRisk risk(model, poisson, curvature::tensor_dataset({x}, counts, 16));

  const torch::Tensor ggn = curvature::materialize(*curvature::ggn(risk));
  const torch::Tensor rate = x.matmul(w.detach()).exp();
  const torch::Tensor expected = x.t().matmul(rate * x) / 50;
  const double error = (ggn - expected).abs().max().item<double>();
  std::cout << "GGN of Poisson regression\n" << ggn << "\nlargest error " << error << '\n';
  if (error > 1e-12) std::cout << "wrong\n";
  return error > 1e-12 ? 1 : 0;
}
