// Preconditioners of conjugate gradients on the damped GGN of a small version of the demo's
// network. Prints a block for each: its name, then iterations, the relative residual and the part
// of the quadratic model's decrease that is missing; docs/pictures/draw.sh plots them.
#include <iostream>

#include <curvature/layerwise/kfac.hpp>
#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/operators/dense.hpp>
#include <curvature/solvers/conjugate_gradient.hpp>

#include "digits.hpp"

int main() {
  torch::manual_seed(0);
  const auto convolution = [](int64_t in, int64_t out) {
    return torch::nn::Conv2d(torch::nn::Conv2dOptions(in, out, 3).stride(2).padding(1));
  };
  torch::nn::Sequential net(convolution(1, 4), torch::nn::GELU(), convolution(4, 8),
                            torch::nn::GELU(), torch::nn::Flatten(), torch::nn::Linear(32, 16),
                            torch::nn::GELU(), torch::nn::Linear(16, 10));
  net->to(torch::kDouble);
  const Digits data = load_digits();
  train(net, data, 10);
  const curvature::EmpiricalRisk risk(
      curvature::Model::from_module(net), curvature::cross_entropy(),
      curvature::tensor_dataset({data.images.slice(0, 0, 300)}, data.labels.slice(0, 0, 300), 300));
  // The matrices are small enough to be held, so that many solves are quick.
  const auto held = [&risk](const curvature::OperatorPtr& a) {
    return curvature::dense(curvature::materialize(*a), risk.space(), risk.space(),
                            a->spec().symmetry);
  };
  const auto damped = [](const auto& matrix) { return curvature::shifted(matrix, 1e-3); };
  const auto a = damped(held(curvature::ggn(risk)));
  const std::vector<std::pair<std::string, curvature::OperatorPtr>> preconditioners = {
      {"none", nullptr},
      {"diagonal", curvature::inverse(damped(curvature::ggn_diagonal(risk)))},
      {"K-FAC", curvature::inverse(damped(curvature::kfac(risk)))},
      {"EK-FAC", curvature::inverse(damped(curvature::ekfac(risk)))},
      {"exact blocks", curvature::inverse(damped(
                           held(curvature::ggn(risk, {.blocks = curvature::Blocks::kLayer}))))},
  };
  const torch::Tensor rhs = torch::nn::utils::parameters_to_vector(risk.gradient());
  const torch::Tensor exact = curvature::inverse(a)->apply(rhs);
  for (const auto& [name, preconditioner] : preconditioners) {
    std::cout << '"' << name << "\"\n";
    torch::Tensor last = torch::ones({});
    for (int64_t n = 1; n <= 300; n += (n + 1) / 2) {
      const auto cg = curvature::conjugate_gradient(
          {.relative_residual = 1e-8, .max_iterations = n, .preconditioner = preconditioner});
      const auto [x, report] = curvature::solve(a, rhs, cg);
      const torch::Tensor missing = (exact - x).dot(rhs - a->apply(x)) / exact.dot(rhs);
      if ((missing > last).item<bool>()) std::cout << "wrong: the quadratic model rose\n";
      last = missing;
      std::cout << n << ' ' << report.relative_residuals[0] << ' ' << missing.item<double>()
                << '\n';
    }
    std::cout << "\n\n";
  }
}
