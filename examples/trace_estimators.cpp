// How the error of trace estimators falls with products: the median over seeds, for a spectrum that
// falls quickly and one that does not. Prints a block for each spectrum and method: its name, then
// products and the relative error; docs/pictures/draw.sh plots them.
#include <algorithm>
#include <cmath>
#include <iostream>

#include <torch/torch.h>

#include <curvature/operators/dense.hpp>
#include <curvature/spectral/hutch_plus_plus.hpp>
#include <curvature/spectral/hutchinson.hpp>
#include <curvature/spectral/xtrace.hpp>

using Estimator = curvature::Estimate (*)(curvature::OperatorRef,
                                          const curvature::EstimateOptions&);

double median_error(const curvature::OperatorPtr& a, double exact, Estimator estimator,
                    int64_t products) {
  std::vector<double> errors;
  for (uint64_t seed = 0; seed < 25; ++seed) {
    const auto estimate = estimator(
        a, {.samples = products, .columns_at_once = 200, .random = curvature::RandomSource(seed)});
    errors.push_back(std::abs(estimate.value - exact) / exact);
  }
  std::nth_element(errors.begin(), errors.begin() + 12, errors.end());
  return errors[12];
}

int main() {
  torch::manual_seed(0);
  const int64_t n = 300;
  const auto basis = std::get<0>(torch::linalg_qr(torch::randn({n, n}, torch::kDouble)));
  const torch::Tensor index = torch::arange(1, n + 1, torch::kDouble);
  const std::vector<std::pair<std::string, torch::Tensor>> spectra = {
      {"eigenvalues 1/i^2", index.pow(-2)}, {"eigenvalues 1/sqrt(i)", index.pow(-0.5)}};
  const std::vector<std::pair<std::string, Estimator>> estimators = {
      {"Hutchinson", &curvature::hutchinson_trace},
      {"Hutch++", &curvature::hutch_plus_plus_trace},
      {"XTrace", &curvature::xtrace}};

  for (const auto& [spectrum, eigenvalues] : spectra) {
    const auto matrix = (basis * eigenvalues).matmul(basis.t());
    const auto a = curvature::dense(matrix, curvature::Symmetry::kPositiveDefinite);
    for (const auto& [name, estimator] : estimators) {
      std::cout << '"' << name << ", " << spectrum << "\"\n";
      for (const int64_t products : {12, 24, 48, 96, 192}) {
        const double exact = eigenvalues.sum().item<double>();
        std::cout << products << ' ' << median_error(a, exact, estimator, products) << '\n';
      }
      std::cout << "\n\n";
    }
  }
}
