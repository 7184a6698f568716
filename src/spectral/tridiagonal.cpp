#include <cmath>

#include <ATen/ops/empty.h>

#include <Eigen/Eigenvalues>

#include <curvature/spectral/lanczos.hpp>

#include "core/check.hpp"

namespace curvature {

RitzPairs ritz_pairs(const LanczosResult& run) {
  const int64_t m = run.num_steps();
  CURVATURE_CHECK(m > 0, OptionError, "ritz_pairs: the Lanczos run is empty");
  const Eigen::Map<const Eigen::VectorXd> diagonal(run.alphas.data(), m);
  const Eigen::Map<const Eigen::VectorXd> off_diagonal(run.betas.data(), m - 1);
  Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver;
  solver.computeFromTridiagonal(diagonal, off_diagonal);
  CURVATURE_CHECK(solver.info() == Eigen::Success, NumericalError,
                  "ritz_pairs: the eigenvalues of a tridiagonal matrix of size {} did not converge",
                  m);

  RitzPairs ritz;
  ritz.values.assign(solver.eigenvalues().begin(), solver.eigenvalues().end());
  // A column-major matrix is the transpose of a row-major one.
  ritz.coefficients = at::empty({m, m}, at::kDouble).t();
  Eigen::Map<Eigen::MatrixXd>(ritz.coefficients.mutable_data_ptr<double>(), m, m) =
      solver.eigenvectors();
  for (int64_t i = 0; i < m; ++i) {
    ritz.residuals.push_back(std::abs(run.betas.back() * solver.eigenvectors()(m - 1, i)));
  }
  return ritz;
}

}  // namespace curvature
