#pragma once

#include <atomic>
#include <memory>
#include <utility>

#include <curvature/core/linear_operator.hpp>

#include "support/tensor_close.hpp"

namespace curvature::testing {

/// A square matrix as an operator known by its products, which it counts (one for each column).
class DenseOperator final : public FlatOperator {
 public:
  explicit DenseOperator(at::Tensor matrix, Symmetry symmetry = Symmetry::kSymmetric)
      : FlatOperator(OperatorSpec{.domain = Space::flat(matrix.size(1)),
                                  .range = Space::flat(matrix.size(0)),
                                  .dtype = matrix.scalar_type(),
                                  .device = matrix.device(),
                                  .symmetry = symmetry}),
        matrix_(std::move(matrix)) {}

  const at::Tensor& matrix() const noexcept { return matrix_; }
  int64_t products() const noexcept { return products_.load(); }
  std::string describe() const override { return "Dense(n=" + std::to_string(cols()) + ")"; }

 protected:
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    products_ += x.size(1);
    return matrix_.matmul(x);
  }

 private:
  at::Tensor matrix_;
  mutable std::atomic<int64_t> products_ = 0;
};

inline at::TensorOptions double_options() {
  return at::TensorOptions().dtype(at::kDouble).device(test_device());
}

/// n numbers from `low` to `high`, evenly spaced.
inline at::Tensor numbers(double low, double high, int64_t n) {
  return torch::linspace(low, high, n, double_options());
}

/// The 1-D Dirichlet Laplacian tridiag(-1, 2, -1).
inline at::Tensor laplacian(int64_t n) {
  const at::Tensor off_diagonal = torch::diag(torch::full({n - 1}, -1.0, double_options()), 1);
  return 2 * torch::eye(n, double_options()) + off_diagonal + off_diagonal.t();
}

/// Its eigenvalues 2 - 2 cos(k pi / (n + 1)), ascending.
inline at::Tensor laplacian_eigenvalues(int64_t n) {
  return 2 - 2 * (torch::arange(1, n + 1, double_options()) * M_PI / double(n + 1)).cos();
}

/// Q diag(eigenvalues) Q^T with a random orthogonal Q.
inline at::Tensor with_eigenvalues(const at::Tensor& eigenvalues, uint64_t seed = 1) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(seed);
  const int64_t n = eigenvalues.size(0);
  const at::Tensor q =
      std::get<0>(torch::linalg_qr(torch::randn({n, n}, generator, at::kDouble))).to(test_device());
  const at::Tensor matrix = q.matmul(eigenvalues.to(double_options()).unsqueeze(1) * q.t());
  return (matrix + matrix.t()) / 2;
}

}  // namespace curvature::testing
