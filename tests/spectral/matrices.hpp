#pragma once

#include <ostream>
#include <string>
#include <vector>

#include <curvature/core/random.hpp>
#include <curvature/spectral/eigenpairs.hpp>

#include "support/dense_operator.hpp"

/// Matrices that know their eigenvalues, and what every eigensolver has to keep to.
namespace curvature::testing {

struct Matrix {
  std::string name;
  at::Tensor matrix;       ///< symmetric, float64
  at::Tensor eigenvalues;  ///< ascending, float64 on the CPU
  /// The smallest ones crowd together far below |A|, out of reach of a small Krylov space.
  bool crowded_bottom = false;
};

inline std::ostream& operator<<(std::ostream& out, const Matrix& matrix) {
  return out << matrix.name;
}

inline at::Tensor host(const at::Tensor& x) { return x.to(at::kCPU, at::kDouble); }

inline at::Tensor values_of(const Eigenpairs& pairs) {
  return torch::tensor(pairs.values, at::kDouble);
}

inline at::Tensor linspace(double low, double high, int64_t n) {
  return torch::linspace(low, high, n, at::kDouble);
}

/// Ascending, by LAPACK.
inline at::Tensor lapack(const at::Tensor& matrix) {
  return std::get<0>(torch::linalg_eigh(host(matrix)));
}

/// Q diag(l) Q^T with a random orthogonal Q.
inline Matrix prescribed(std::string name, const at::Tensor& eigenvalues) {
  return {std::move(name), with_eigenvalues(eigenvalues),
          std::get<0>(eigenvalues.to(at::kDouble).sort())};
}

inline Matrix by_lapack(std::string name, const at::Tensor& matrix) {
  return {std::move(name), matrix, lapack(matrix)};
}

/// kron(L_p, I) + kron(I, L_q): q x q blocks, p of them along the diagonal.
inline Matrix block_laplacian(int64_t p, int64_t q) {
  const at::Tensor eye_p = torch::eye(p, double_options()), eye_q = torch::eye(q, double_options());
  const at::Tensor values = laplacian_eigenvalues(p).unsqueeze(1) + laplacian_eigenvalues(q);
  return {"Laplacian of " + std::to_string(p) + " x " + std::to_string(q),
          torch::kron(laplacian(p), eye_q) + torch::kron(eye_p, laplacian(q)),
          host(std::get<0>(values.flatten().sort()))};
}

/// Matrices of `n` rows, and some smaller ones.
inline std::vector<Matrix> analytic_matrices(int64_t n = 120) {
  const auto full = [](double value, int64_t count) {
    return torch::full({count}, value, at::kDouble);
  };
  const at::Tensor identity = torch::eye(n, double_options());
  std::vector<Matrix> all = {
      {"identity", identity, full(1, n)},
      {"minus three times the identity", -3 * identity, full(-3, n)},
      {"zero", torch::zeros({n, n}, double_options()), full(0, n)},
      {"one entry", torch::full({1, 1}, -2.5, double_options()), full(-2.5, 1)},
      {"two rows", laplacian(2), host(laplacian_eigenvalues(2))},
      {"Laplacian", laplacian(n), host(laplacian_eigenvalues(n))},
      block_laplacian(5, 5),
      block_laplacian(n / 5, 5),
      block_laplacian(12, 12),
      {"diag(1..n)", torch::arange(1, n + 1, double_options()).diag(),
       torch::arange(1, n + 1, at::kDouble)},
  };
  const at::Tensor shift = identity.roll(1, 0);
  const at::Tensor angles = torch::arange(n, at::kDouble) * (2 * M_PI / double(n));
  all.push_back(
      {"circulant", 2 * identity - shift - shift.t(), std::get<0>((2 - 2 * angles.cos()).sort())});
  for (const double condition : {1e2, 1e6, 1e10}) {
    all.push_back(prescribed("geometric, condition 1e" + std::to_string(int(std::log10(condition))),
                             torch::pow(condition, -linspace(0, 1, n))));
    all.back().crowded_bottom = condition > 1e4;
  }
  all.push_back(prescribed("step", torch::cat({full(1, 50), full(1e-3, n - 50)})));
  all.push_back(prescribed("clusters",
                           torch::cat({1 + 1e-6 * linspace(0, 1, 5), 0.5 + 1e-3 * linspace(0, 1, 5),
                                       linspace(0, 0.2, n - 10)})));
  all.push_back(prescribed("one outlier", torch::cat({linspace(0, 1, n - 1), full(100, 1)})));
  all.push_back(
      prescribed("indefinite", torch::cat({-linspace(1, 5, n / 2), linspace(0.5, 7, n / 2)})));
  all.push_back(prescribed("null space", torch::cat({full(0, n - 30), linspace(0.1, 3, 30)})));
  all.push_back(prescribed("rank five", torch::cat({full(0, n - 5), linspace(1, 3, 5)})));
  all.push_back(
      prescribed("multiplicities of seven",
                 torch::cat({full(4, 7), full(2, 7), full(-3, 7), linspace(-1, 1, n - 21)})));
  const at::Tensor u = host(torch::ones({n}, at::kDouble) / std::sqrt(double(n)));
  all.push_back(by_lapack("diagonal plus rank one",
                          (linspace(1, 2, n).diag() + 3 * u.outer(u)).to(double_options())));
  const at::Tensor x =
      host(draw_probes(RandomSource(7), Probe::kGaussian, 2 * n, 0, n, at::kDouble));
  all.push_back(by_lapack("Wishart", (x.t().mm(x) / double(2 * n)).to(double_options())));
  const at::Tensor index = torch::arange(1, 41, at::kDouble);
  all.push_back(by_lapack("Hilbert", (1 / (index.unsqueeze(1) + index - 1)).to(double_options())));
  return all;
}

inline double norm_of(const Matrix& matrix) {
  return matrix.eigenvalues.abs().max().item<double>();
}

/// Checks the values at both ends to 1e-10 of |A|.
inline void check_values(const Matrix& matrix, const EigenpairsResult& result,
                         double tolerance = 1e-10) {
  const double norm = norm_of(matrix);
  const auto top = static_cast<int64_t>(result.top.values.size());
  const auto bottom = static_cast<int64_t>(result.bottom.values.size());
  const at::Tensor largest = matrix.eigenvalues.flip(0).narrow(0, 0, top);
  const at::Tensor smallest = matrix.eigenvalues.narrow(0, 0, bottom);
  BOOST_TEST(close(values_of(result.top), largest, {0, tolerance * norm}));
  BOOST_TEST(close(values_of(result.bottom), smallest, {0, tolerance * norm}));
}

/// Checks that the vectors are orthonormal, of the operator's kind, and that the reported residuals
/// are the true ones.
inline void check_pairs(const DenseOperator& a, const Eigenpairs& pairs, double tolerance = 1e-10) {
  const int64_t k = static_cast<int64_t>(pairs.values.size());
  BOOST_TEST((pairs.vectors.scalar_type() == a.spec().dtype));
  BOOST_TEST((pairs.vectors.device() == a.spec().device));
  BOOST_TEST(pairs.vectors.sizes() == c10::IntArrayRef({a.rows(), k}));
  BOOST_TEST(pairs.residuals.size() == pairs.values.size());
  const at::Tensor u = host(pairs.vectors);
  BOOST_TEST(close(u.t().matmul(u), torch::eye(k, at::kDouble), {tolerance, tolerance}));
  const at::Tensor residuals = (host(a.matrix()).matmul(u) - u * values_of(pairs)).norm(2, {0});
  const double norm = host(a.matrix()).norm().item<double>();
  BOOST_TEST(
      close(torch::tensor(pairs.residuals, at::kDouble), residuals, {1e-2, tolerance * norm}));
}

}  // namespace curvature::testing
