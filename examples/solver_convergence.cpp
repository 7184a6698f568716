// How fast iterative solvers invert the damped GGN of a network. Prints a block for each method:
// its name, then products and the relative residual after them; docs/pictures/draw.sh plots them.
#include <iostream>

#include <torch/torch.h>

#include <curvature/matrix_free/ggn.hpp>
#include <curvature/operators/algebra.hpp>
#include <curvature/solvers/conjugate_gradient.hpp>
#include <curvature/solvers/least_squares.hpp>
#include <curvature/solvers/minres.hpp>
#include <curvature/solvers/neumann.hpp>
#include <curvature/spectral/low_rank.hpp>

int main() {
  torch::manual_seed(0);
  torch::nn::Sequential net(torch::nn::Linear(8, 32), torch::nn::Tanh(), torch::nn::Linear(32, 3));
  net->to(torch::kDouble);
  const torch::Tensor inputs = torch::randn({200, 8}, torch::kDouble);
  const torch::Tensor labels = torch::randint(3, {200}, torch::kLong);
  const curvature::EmpiricalRisk risk(curvature::Model::from_module(net),
                                      curvature::cross_entropy(),
                                      curvature::tensor_dataset({inputs}, labels, 200));
  const double damping = 1e-4;
  const auto ggn = curvature::ggn(risk);
  const auto a = curvature::shifted(ggn, damping);
  const torch::Tensor rhs = torch::randn({risk.space().size()}, torch::kDouble);

  const curvature::IterationOptions plain = {.relative_residual = 1e-8, .max_iterations = 400};
  const auto sketch = curvature::nystrom(ggn, {.rank = 60, .residuals = false});
  curvature::IterationOptions preconditioned = plain;
  preconditioned.preconditioner =
      curvature::nystrom_preconditioner(sketch.top, damping, risk.space());

  const std::vector<std::tuple<std::string, curvature::SolverPtr, int>> solvers = {
      {"CG", curvature::conjugate_gradient(plain), 1},
      {"MINRES", curvature::minres(plain), 1},
      {"LSMR", curvature::lsmr({.iteration = plain}), 2},
      {"Neumann series", curvature::neumann({.iteration = plain}), 1},
      {"CG, Nystrom preconditioner", curvature::conjugate_gradient(preconditioned), 1},
  };
  for (const auto& [name, solver, products] : solvers) {
    const auto report = curvature::solve(a, rhs, solver).report;
    const bool sketched = solver == std::get<1>(solvers.back());
    int64_t done = sketched ? sketch.products : 0;
    std::cout << '"' << name << "\"\n" << done << " 1\n";
    for (const double residual : report.history) {
      std::cout << (done += products) << ' ' << residual << '\n';
    }
    std::cout << "\n\n";
  }
}
