#include <curvature/solvers/direct.hpp>

#include <algorithm>
#include <cmath>
#include <functional>

#include <ATen/TensorOperators.h>
#include <ATen/ops/cholesky_solve.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_ldl_factor_ex.h>
#include <ATen/ops/linalg_ldl_solve.h>
#include <ATen/ops/linalg_lu_factor_ex.h>
#include <ATen/ops/linalg_lu_solve.h>

#include <curvature/core/memory.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "core/inner_product.hpp"
#include "solvers/lockstep.hpp"

namespace curvature {
namespace {

/// X -> A^-1 X.
using Apply = std::function<at::Tensor(const at::Tensor&)>;

void check_memory(const LinearOperator& a) {
  const double needed = 3.0 * 8 * static_cast<double>(a.rows()) * static_cast<double>(a.rows());
  const auto free = static_cast<double>(available_memory(a.spec().device));
  CURVATURE_CHECK(needed <= free, OptionError,
                  "direct: the dense matrix of {} takes {:.1f} GB and {:.1f} GB are free; use an "
                  "iterative solver",
                  a.describe(), needed / 1e9, free / 1e9);
}

at::Tensor matrix_of(const LinearOperator& a, const Observer& observer) {
  check_memory(a);
  if (observer) observer({"Dense matrix", 0, a.cols()});
  at::Tensor matrix = materialize(a).to(at::kDouble);
  if (observer) observer({"Dense matrix", a.cols(), a.cols()});
  CURVATURE_CHECK(detail::is_finite(matrix), NumericalError,
                  "direct: the matrix of {} is not finite", a.describe());
  return a.is_symmetric() ? (matrix + matrix.t()) / 2 : matrix;
}

/// The smallest and largest pivots tell a matrix that is singular to working precision.
void check_pivots(const LinearOperator& a, const at::Tensor& pivots) {
  const at::Tensor sizes = pivots.abs();
  const double smallest = sizes.min().item<double>(), largest = sizes.max().item<double>();
  CURVATURE_CHECK(smallest > 1e-16 * largest, NumericalError,
                  "direct: {} is singular; expected pivots above {:.1e}, got {:.1e}; add damping",
                  a.describe(), 1e-16 * largest, smallest);
}

/// The eigenvalues of the 1-by-1 and 2-by-2 pivots of L D L^T, which LAPACK stores on and below the
/// diagonal; a 2-by-2 pivot has two negative indices.
at::Tensor ldl_pivots(const at::Tensor& factor, const at::Tensor& indices) {
  at::Tensor pivots = factor.diagonal().to(at::kCPU).clone();
  const at::Tensor below = factor.diagonal(-1).to(at::kCPU).contiguous();
  const at::Tensor is_pair = indices.to(at::kCPU).lt(0);
  double* d = pivots.mutable_data_ptr<double>();
  for (int64_t i = 0; i + 1 < pivots.numel(); ++i) {
    if (!is_pair[i].item<bool>()) continue;
    const double e = below[i].item<double>();
    const double mean = (d[i] + d[i + 1]) / 2, radius = std::hypot((d[i] - d[i + 1]) / 2, e);
    d[i] = mean - radius;
    d[i + 1] = mean + radius;
    ++i;
  }
  return pivots;
}

Apply factorise(const LinearOperator& a, const Observer& observer) {
  const at::Tensor matrix = matrix_of(a, observer);
  if (a.is_symmetric()) {
    const auto [factor, failed] = at::linalg_cholesky_ex(matrix);
    if (failed.item<int64_t>() == 0) {
      check_pivots(a, factor.diagonal().square());
      return [factor = factor](const at::Tensor& b) { return at::cholesky_solve(b, factor); };
    }
    const auto [ldl, indices, info] = at::linalg_ldl_factor_ex(matrix);
    check_pivots(a, ldl_pivots(ldl, indices));
    return [ldl = ldl, indices = indices](const at::Tensor& b) {
      return at::linalg_ldl_solve(ldl, indices, b);
    };
  }
  const auto [lu, pivots, info] = at::linalg_lu_factor_ex(matrix);
  check_pivots(a, lu.diagonal());
  return [lu = lu, pivots = pivots](const at::Tensor& b) {
    return at::linalg_lu_solve(lu, pivots, b);
  };
}

/// The norm of all columns together.
double size_of(const at::Tensor& x) { return detail::scaled_norm(x.reshape(-1).contiguous()); }

class Direct final : public Solver {
 public:
  explicit Direct(DirectOptions options) : options_(std::move(options)) {
    CURVATURE_CHECK(options_.relative_residual > 0, OptionError,
                    "direct: relative_residual must be positive; got {}",
                    options_.relative_residual);
  }

  SolverPtr adjoint() const override { return direct(options_); }

 protected:
  Solution solve_impl(const LinearOperator& a, const at::Tensor& b,
                      const at::Tensor&) const override {
    CURVATURE_CHECK(a.rows() == a.cols(), ShapeError,
                    "direct: expected a square operator, got [{}, {}]; use lsmr", a.rows(),
                    a.cols());
    Solution solution;
    const Apply apply_inverse = inverse_of(a, solution.report);
    solution.x = apply_inverse(b);
    at::Tensor residual = b - a.apply(solution.x);
    const at::Tensor refined = solution.x + apply_inverse(residual);
    const at::Tensor refined_residual = b - a.apply(refined);
    solution.report.products += 2 * b.size(1);
    if (size_of(refined_residual) < size_of(residual)) {
      solution.x = refined;
      residual = refined_residual;
    }
    judge(b, residual, solution.report);
    return solution;
  }

 private:
  /// In closed form, or by a dense factorisation.
  Apply inverse_of(const LinearOperator& a, SolveReport& report) const {
    if (const OperatorPtr inverse = a.inverse()) {
      return [inverse](const at::Tensor& b) { return inverse->apply(b); };
    }
    report.products += a.cols();
    return [factored = factorise(a, options_.observer), dtype = a.spec().dtype](
               const at::Tensor& b) { return factored(b.to(at::kDouble)).to(dtype); };
  }

  void judge(const at::Tensor& b, const at::Tensor& residual, SolveReport& report) const {
    for (int64_t k = 0; k < b.size(1); ++k) {
      const double b_norm = detail::scaled_norm(b.select(1, k).contiguous());
      report.residuals.push_back(detail::scaled_norm(residual.select(1, k).contiguous()));
      const double relative = b_norm == 0 ? 0 : report.residuals.back() / b_norm;
      report.relative_residuals.push_back(relative);
      report.terminations.push_back(!std::isfinite(relative) ? Termination::kNonFinite
                                    : relative <= options_.relative_residual
                                        ? Termination::kConverged
                                        : Termination::kStagnated);
      report.termination = detail::worse(report.termination, report.terminations.back());
    }
  }

  DirectOptions options_;
};

}  // namespace

SolverPtr direct(const DirectOptions& options) { return std::make_shared<Direct>(options); }

}  // namespace curvature
