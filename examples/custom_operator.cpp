// An operator of one's own, known by its products only: the Laplacian of a ring of n points. It
// works with everything that takes an operator.
#include <cmath>
#include <iostream>
#include <numbers>

#include <torch/torch.h>

#include <curvature/operators/algebra.hpp>
#include <curvature/spectral/eigenpairs.hpp>

class RingLaplacian final : public curvature::FlatOperator {
 public:
  explicit RingLaplacian(int64_t n)
      : FlatOperator({.domain = curvature::Space::flat(n),
                      .range = curvature::Space::flat(n),
                      .symmetry = curvature::Symmetry::kPositiveSemidefinite}) {}

  std::string describe() const override { return "RingLaplacian"; }

 private:
  // x is [n, K]: checked, and K columns at once.
  torch::Tensor apply_flat_impl(const torch::Tensor& x) const override {
    return 2 * x - x.roll(1, 0) - x.roll(-1, 0);
  }
};

int main() {
  const int64_t n = 400;
  const curvature::OperatorPtr laplacian = std::make_shared<RingLaplacian>(n);
  const auto squared = laplacian * laplacian;

  // The spectrum is 2 - 2 cos(2 pi k / n), each value twice but for the ends.
  const auto pairs = curvature::eigenpairs(laplacian, {.count = 3});
  const double second = 2 - 2 * std::cos(2 * std::numbers::pi * (n / 2 - 1) / n);
  std::cout << "largest eigenvalues " << pairs.top.values[0] << ", " << pairs.top.values[1] << ", "
            << pairs.top.values[2] << "; expected 4 and " << second << " twice\n";
  const double error = std::abs(pairs.top.values[0] - 4) + std::abs(pairs.top.values[1] - second) +
                       std::abs(pairs.top.values[2] - second);
  std::cout << squared->describe() << " is " << squared->rows() << " x " << squared->cols() << '\n';
  if (error > 1e-6) std::cout << "wrong: the error is " << error << '\n';
  return error > 1e-6 ? 1 : 0;
}
