#include <curvature/solvers/solver.hpp>

#include <utility>

#include <ATen/core/grad_mode.h>
#include <ATen/ops/zeros.h>

#include <curvature/operators/algebra.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"

namespace curvature {
namespace {

void check_vectors(const LinearOperator& a, const at::Tensor& x, int64_t size, const char* what) {
  CURVATURE_CHECK(x.defined() && (x.dim() == 1 || x.dim() == 2) && x.size(0) == size, ShapeError,
                  "solve: expected a {} of shape [{}] or [{}, K], got {}", what, size, size,
                  x.defined() ? detail::to_string(x.sizes()) : "an undefined tensor");
  CURVATURE_CHECK(x.scalar_type() == a.spec().dtype && x.device() == a.spec().device,
                  DtypeDeviceError,
                  "solve: expected a {} of {} on {}, got {} on {}; convert it with .to()", what,
                  c10::toString(a.spec().dtype), a.spec().device.str(),
                  c10::toString(x.scalar_type()), x.device().str());
  CURVATURE_CHECK(detail::is_finite(x), DataError, "solve: the {} is not finite", what);
}

void check_dtype(const LinearOperator& a) {
  CURVATURE_CHECK(a.spec().dtype == at::kDouble || a.spec().dtype == at::kFloat, NotSupportedError,
                  "solve: expected an operator in float32 or float64, got {} in {}", a.describe(),
                  c10::toString(a.spec().dtype));
}

/// Without columns, or of an operator without rows and columns.
Solution empty_solution(const LinearOperator& a, const at::Tensor& b) {
  const auto num_columns = static_cast<size_t>(b.dim() == 1 ? 1 : b.size(1));
  Shape shape = b.sizes().vec();
  shape.front() = a.cols();
  return {at::zeros(shape, b.options().requires_grad(false)),
          {.terminations = std::vector<Termination>(num_columns, Termination::kConverged),
           .residuals = std::vector<double>(num_columns, 0),
           .relative_residuals = std::vector<double>(num_columns, 0)}};
}

OperatorSpec inverse_spec(const OperatorSpec& spec) {
  return {spec.range, spec.domain, spec.dtype, spec.device, spec.symmetry};
}

/// A^-1 by a solver.
class SolverInverse final : public FlatOperator {
 public:
  SolverInverse(OperatorPtr a, SolverPtr solver, SolveObserver on_solve)
      : FlatOperator(inverse_spec(a->spec())),
        a_(std::move(a)),
        adjoint_(a_->is_symmetric() ? a_ : curvature::adjoint(a_)),
        solver_(std::move(solver)),
        adjoint_solver_(a_->is_symmetric() ? solver_ : solver_->adjoint()),
        on_solve_(std::move(on_solve)) {}

  std::string describe() const override { return "inverse of " + a_->describe(); }
  OperatorPtr inverse() const override { return a_; }

 protected:
  at::Tensor apply_flat_impl(const at::Tensor& x) const override {
    return solve_and_tell(*solver_, *a_, x);
  }
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override {
    return solve_and_tell(*adjoint_solver_, *adjoint_, y);
  }

 private:
  at::Tensor solve_and_tell(const Solver& solver, const LinearOperator& a,
                            const at::Tensor& b) const {
    Solution solution = solver.solve(a, b);
    if (on_solve_) on_solve_(solution.report);
    return std::move(solution.x);
  }

  OperatorPtr a_;
  OperatorPtr adjoint_;
  SolverPtr solver_;
  SolverPtr adjoint_solver_;
  SolveObserver on_solve_;
};

}  // namespace

Solution Solver::solve(const LinearOperator& a, const at::Tensor& b,
                       const at::Tensor& start) const {
  check_dtype(a);
  check_vectors(a, b, a.rows(), "right-hand side");
  const bool is_vector = b.dim() == 1;
  at::Tensor first = start;
  if (start.defined()) {
    check_vectors(a, start, a.cols(), "start");
    CURVATURE_CHECK(start.dim() == b.dim() && (is_vector || start.size(1) == b.size(1)), ShapeError,
                    "solve: expected a start with the columns of the right-hand side {}, got {}",
                    detail::to_string(b.sizes()), detail::to_string(start.sizes()));
    if (is_vector) first = start.unsqueeze(1);
  }
  const at::NoGradGuard no_grad;
  const at::Tensor columns = (is_vector ? b.unsqueeze(1) : b).detach();
  if (columns.size(1) == 0 || (a.rows() == 0 && a.cols() == 0)) return empty_solution(a, b);
  Solution solution = solve_impl(a, columns, first);
  if (is_vector) solution.x = solution.x.squeeze(1);
  return solution;
}

Solution solve(const OperatorPtr& a, const at::Tensor& b, const SolverPtr& solver,
               const at::Tensor& start) {
  CURVATURE_CHECK(a != nullptr && solver != nullptr, OptionError, "solve: the {} is null",
                  a == nullptr ? "operator" : "solver");
  return solver->solve(*a, b, start);
}

OperatorPtr inverse(const OperatorPtr& a, SolverPtr solver, SolveObserver on_solve) {
  CURVATURE_CHECK(a != nullptr && solver != nullptr, OptionError, "inverse: the {} is null",
                  a == nullptr ? "operator" : "solver");
  CURVATURE_CHECK(a->rows() == a->cols(), ShapeError,
                  "inverse: expected a square operator, got [{}, {}]", a->rows(), a->cols());
  return std::make_shared<SolverInverse>(a, std::move(solver), std::move(on_solve));
}

}  // namespace curvature
