// The largest eigenvalues and the spectral density of a network's Hessian, a product and a solve
// with its GGN.
#include <iostream>

#include <torch/torch.h>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/matrix_free/hessian.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/solvers/conjugate_gradient.hpp>
#include <curvature/spectral/density.hpp>
#include <curvature/spectral/eigenpairs.hpp>

int main() {
  torch::manual_seed(0);
  torch::nn::Sequential net(torch::nn::Linear(8, 32), torch::nn::Tanh(), torch::nn::Linear(32, 3));
  const torch::Tensor inputs = torch::randn({200, 8});
  const torch::Tensor labels = torch::randint(3, {200}, torch::kLong);

  // Everything that is differentiated is one object: model x loss x data x reduction.
  const curvature::EmpiricalRisk risk(curvature::Model::from_module(net),
                                      curvature::cross_entropy(),
                                      curvature::tensor_dataset({inputs}, labels, 64));

  const curvature::OperatorPtr hessian = curvature::hessian(risk);
  const auto top = curvature::eigenpairs(hessian, {.count = 5});
  std::cout << hessian->describe() << ", " << top.products << " products\n";
  for (size_t i = 0; i < top.top.values.size(); ++i) {
    std::cout << "  eigenvalue " << top.top.values[i] << ", residual " << top.top.residuals[i]
              << '\n';
  }

  const auto density = curvature::spectral_density(hessian, {.num_steps = 40, .num_probes = 4},
                                                   curvature::RandomSource(1));
  std::cout << "density on [" << density.grid.front() << ", " << density.grid.back() << "]\n";

  // Operators compose: (GGN + 0.1 I) v, v a list shaped like the parameters or one flat vector.
  const auto damped = curvature::shifted(curvature::ggn(risk), 0.1);
  const torch::Tensor product = damped->apply(torch::ones({risk.space().size()}));
  std::cout << damped->describe() << " times ones has norm " << product.norm().item<double>()
            << '\n';

  // Also in the form of the parameters: the inverse of an operator is an operator.
  const auto inverse =
      curvature::inverse(damped, curvature::conjugate_gradient(), [](const auto& report) {
        std::cout << "solved in " << report.iterations << " iterations\n";
      });
  const curvature::TensorList step = inverse->apply(risk.gradient());
  std::cout << "the damped Gauss-Newton step has " << step.size() << " tensors\n";
}
