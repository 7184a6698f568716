#include "spectral/spectra_solver.hpp"

#include <ATen/ops/empty.h>

#include <Eigen/Eigenvalues>
#include <Spectra/SymEigsSolver.h>

namespace curvature::detail {
namespace {

/// Spectra hands out converged pairs only; this one also the others, from its projected matrix.
class Solver final : public Spectra::SymEigsSolver<ShiftedProduct> {
 public:
  Solver(ShiftedProduct& product, int64_t count, int64_t subspace)
      : SymEigsSolver(product, count, subspace) {}

  LargestPairs largest(int64_t count) const {
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> projected(m_fac.matrix_H());
    const Eigen::MatrixXd coefficients =
        projected.eigenvectors().rightCols(count).rowwise().reverse();
    LargestPairs pairs;
    // A column-major matrix is the transpose of a row-major one.
    pairs.vectors = at::empty({count, m_n}, at::kDouble).t();
    Eigen::Map<Eigen::MatrixXd>(pairs.vectors.mutable_data_ptr<double>(), m_n, count).noalias() =
        m_fac.matrix_V() * coefficients;
    const Eigen::VectorXd values = projected.eigenvalues().tail(count).reverse();
    pairs.values.assign(values.begin(), values.end());
    pairs.converged = info() == Spectra::CompInfo::Successful;
    return pairs;
  }
};

}  // namespace

LargestPairs restarted_lanczos(ShiftedProduct& product, const at::Tensor& start,
                               const RestartedLanczosOptions& options) {
  Solver solver(product, options.count, options.subspace);
  solver.init(start.const_data_ptr<double>());
  solver.compute(Spectra::SortRule::LargestAlge, options.max_restarts, options.tolerance);
  return solver.largest(options.count);
}

}  // namespace curvature::detail
