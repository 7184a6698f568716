#include "solvers/lockstep.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <curvature/operators/algebra.hpp>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "core/inner_product.hpp"
#include "core/transposition.hpp"

namespace curvature::detail {
namespace {

/// Recurrences aim a little lower than asked, so that rounding rarely asks for a second round.
constexpr double kAim = 0.9;

at::Tensor columns_contiguous(const at::Tensor& x) { return columns_as_rows(x).t(); }

/// One right-hand side on its way.
struct Column {
  at::Tensor x;       // [n]
  at::Tensor b;       // [m]
  double unit = 1;    // of all of the numbers here
  double b_norm = 0;  // what residuals are relative to
  double tolerance = 0;
  double residual = 0;   // true, of the last round
  bool started = false;  // x may differ from zero
  int64_t iterations = 0;
  std::optional<Termination> claim = std::nullopt;  // of the last round's recurrence
  std::optional<Termination> end = std::nullopt;
  std::unique_ptr<Recurrence> recurrence = nullptr;
};

class Driver {
 public:
  Driver(const LinearOperator& a, const at::Tensor& b, const at::Tensor& start,
         const IterationOptions& options, const Method& method)
      : a_(a), options_(options), method_(method) {
    const int64_t num_columns = b.size(1);
    x_ = start.defined() ? start.t().clone(at::MemoryFormat::Contiguous)
                         : at::zeros({num_columns, a.cols()}, b.options());
    const at::Tensor rows = columns_as_rows(b);
    for (int64_t k = 0; k < num_columns; ++k)
      columns_.push_back(column(rows[k], k, start.defined()));
  }

  Solution run() {
    std::vector<Column*> active;
    for (Column& column : columns_) active.push_back(&column);
    while (!active.empty()) {
      begin_round(active);
      std::erase_if(active, [](const Column* column) { return column->end.has_value(); });
      std::vector<Column*> at_work = active;
      second_half(at_work);
      while (!at_work.empty()) step(at_work);
    }
    return finish();
  }

 private:
  enum Product { kNone, kForward, kAdjoint, kPreconditioner };

  Column column(const at::Tensor& b, int64_t k, bool started) const {
    const double unit = unit_of(b);
    Column column{.x = x_[k], .b = unit == 1 ? b : b / unit, .unit = unit, .started = started};
    if (unit != 1) column.x.div_(unit);
    const std::vector<double>& given = method_.reference_norms;
    column.b_norm = given.empty() ? norm(column.b) : given[static_cast<size_t>(k)] / unit;
    column.tolerance =
        std::max(options_.relative_residual * column.b_norm, options_.absolute_residual / unit);
    if (column.b_norm == 0) {  // whatever the start was
      column.x.zero_();
      column.started = false;
    }
    return column;
  }

  /// Computes true residuals, ends the columns that are done and starts the others (again).
  void begin_round(const std::vector<Column*>& active) {
    const std::vector<at::Tensor> residuals = true_residuals(active);
    for (size_t i = 0; i < active.size(); ++i) {
      Column& column = *active[i];
      const double before = column.residual;
      column.residual = norm(residuals[i]);
      column.end = verdict(column, before);
      if (column.end) continue;
      column.claim.reset();
      column.recurrence = method_.make({column.x, residuals[i], kAim * column.tolerance});
    }
  }

  std::optional<Termination> verdict(const Column& column, double before) const {
    if (column.residual <= column.tolerance) return Termination::kConverged;
    if (!std::isfinite(column.residual)) return Termination::kNonFinite;
    if (column.claim) {
      const bool may_go_on =
          *column.claim == Termination::kConverged || *column.claim == Termination::kStagnated;
      if (!may_go_on || method_.least_squares) return column.claim;
      if (column.residual > before / 2) return Termination::kStagnated;
    }
    if (column.iterations >= options_.max_iterations) return Termination::kMaxIterations;
    return std::nullopt;
  }

  std::vector<at::Tensor> true_residuals(const std::vector<Column*>& active) {
    std::vector<at::Tensor> operands, residuals;
    for (const Column* column : active) {
      if (column->started) operands.push_back(column->x);
    }
    const at::Tensor products = operands.empty() ? at::Tensor() : product(kForward, operands);
    int64_t next = 0;
    for (Column* column : active) {
      residuals.push_back(column->b.clone());
      if (column->started) residuals.back().sub_(products.select(1, next++));
      column->started = true;
    }
    return residuals;
  }

  /// One iteration of all columns at work; drops those that end.
  void step(std::vector<Column*>& at_work) {
    first_half(at_work);
    second_half(at_work);
    double largest = 0;
    for (Column* column : at_work) {
      largest = std::max(largest, column->recurrence->residual_norm() / column->b_norm);
      ++column->iterations;
      if (!column->claim && column->iterations >= options_.max_iterations) {
        column->claim = Termination::kMaxIterations;
      }
    }
    report_.history.push_back(largest);
    std::erase_if(at_work, [](const Column* column) { return column->claim.has_value(); });
    if (options_.observer) {
      options_.observer(
          {method_.task, static_cast<int64_t>(report_.history.size()), options_.max_iterations});
    }
  }

  void first_half(const std::vector<Column*>& at_work) {
    half_step(at_work, kForward, &Recurrence::first_operand, &Recurrence::take_first);
  }

  void second_half(const std::vector<Column*>& at_work) {
    const Product product = method_.second_is_adjoint           ? kAdjoint
                            : method_.preconditioner == nullptr ? kNone
                                                                : kPreconditioner;
    half_step(at_work, product, &Recurrence::second_operand, &Recurrence::take_second);
  }

  void half_step(const std::vector<Column*>& at_work, Product kind,
                 at::Tensor (Recurrence::*operand)() const,
                 std::optional<Termination> (Recurrence::*take)(const at::Tensor&)) {
    std::vector<Column*> columns;
    std::vector<at::Tensor> operands;
    for (Column* column : at_work) {
      if (column->claim) continue;
      columns.push_back(column);
      operands.push_back((*column->recurrence.*operand)());
    }
    if (columns.empty()) return;
    const at::Tensor products = kind == kNone ? at::Tensor() : product(kind, operands);
    for (size_t i = 0; i < columns.size(); ++i) {
      Recurrence& recurrence = *columns[i]->recurrence;
      columns[i]->claim = (recurrence.*take)(
          kind == kNone ? operands[i] : products.select(1, static_cast<int64_t>(i)));
      keep_negative_direction(recurrence);
    }
  }

  void keep_negative_direction(const Recurrence& recurrence) {
    const at::Tensor direction = recurrence.negative_direction();
    if (direction.defined() && !report_.negative_direction.defined()) {
      report_.negative_direction = direction / norm(direction);
    }
  }

  /// The vectors multiplied side by side; columns of the result are contiguous.
  at::Tensor product(Product kind, const std::vector<at::Tensor>& vectors) {
    const at::Tensor x = packed(vectors);
    if (kind == kPreconditioner) return columns_contiguous(method_.preconditioner->apply(x));
    report_.products += x.size(1);
    return columns_contiguous(kind == kForward ? a_.apply(x) : a_.apply_adjoint(x));
  }

  /// The vectors as columns; a single one is not copied.
  at::Tensor packed(const std::vector<at::Tensor>& vectors) {
    if (vectors.size() == 1) return vectors.front().unsqueeze(1);
    const auto count = static_cast<int64_t>(vectors.size());
    const int64_t size = vectors.front().size(0);
    at::Tensor& buffer = packed_[size == a_.cols() ? 0 : 1];
    if (!buffer.defined()) {
      buffer = at::empty({static_cast<int64_t>(columns_.size()), size}, vectors.front().options());
    }
    for (int64_t i = 0; i < count; ++i) buffer[i].copy_(vectors[static_cast<size_t>(i)]);
    return buffer.narrow(0, 0, count).t();
  }

  Solution finish() {
    report_.termination = Termination::kConverged;
    for (Column& column : columns_) {
      if (column.unit != 1 && !is_finite(column.x.mul_(column.unit))) {
        column.end = Termination::kNonFinite;
      }
      report_.terminations.push_back(*column.end);
      report_.termination = worse(report_.termination, *column.end);
      report_.iterations = std::max(report_.iterations, column.iterations);
      report_.residuals.push_back(column.residual * column.unit);
      report_.relative_residuals.push_back(column.b_norm == 0 ? 0
                                                              : column.residual / column.b_norm);
    }
    if (report_.negative_direction.defined()) {
      const at::Tensor& d = report_.negative_direction;
      report_.negative_curvature = inner(d, a_.apply(d).contiguous());
      ++report_.products;
    }
    return {x_.t(), std::move(report_)};
  }

  const LinearOperator& a_;
  const IterationOptions& options_;
  const Method& method_;
  at::Tensor x_;  // [K, n]
  at::Tensor packed_[2];
  std::vector<Column> columns_;
  SolveReport report_;
};

}  // namespace

Solution solve_in_lockstep(const LinearOperator& a, const at::Tensor& b, const at::Tensor& start,
                           const IterationOptions& options, const Method& method) {
  return Driver(a, b, start, options, method).run();
}

void check_iteration_options(const IterationOptions& options, std::string_view who) {
  CURVATURE_CHECK(options.relative_residual >= 0 && options.absolute_residual >= 0, OptionError,
                  "{}: expected tolerances of at least 0, got relative_residual {} and "
                  "absolute_residual {}",
                  who, options.relative_residual, options.absolute_residual);
  CURVATURE_CHECK(options.max_iterations >= 0, OptionError,
                  "{}: max_iterations must not be negative; got {}", who, options.max_iterations);
}

void check_symmetric(const LinearOperator& a, std::string_view who) {
  CURVATURE_CHECK(a.is_symmetric(), NotSupportedError,
                  "{}: expected a symmetric operator, got {}; use lsmr", who, a.describe());
}

void check_preconditioner(const LinearOperator& a, const OperatorPtr& preconditioner,
                          std::string_view who) {
  if (preconditioner == nullptr) return;
  CURVATURE_CHECK(preconditioner->cols() == a.rows() && preconditioner->rows() == a.cols(),
                  ShapeError, "{}: expected a preconditioner of shape [{}, {}], got [{}, {}]", who,
                  a.cols(), a.rows(), preconditioner->rows(), preconditioner->cols());
  CURVATURE_CHECK(preconditioner->spec().dtype == a.spec().dtype &&
                      preconditioner->spec().device == a.spec().device,
                  DtypeDeviceError, "{}: expected a preconditioner in {} on {}, got {} on {}", who,
                  c10::toString(a.spec().dtype), a.spec().device.str(),
                  c10::toString(preconditioner->spec().dtype), preconditioner->spec().device.str());
}

IterationOptions adjoint_options(IterationOptions options) {
  if (options.preconditioner != nullptr) {
    options.preconditioner = curvature::adjoint(options.preconditioner);
  }
  return options;
}

double unit_of(const at::Tensor& x) {
  // Room for residuals to fall; block methods take products in the vectors' own dtype.
  const double limit = x.scalar_type() == at::kDouble ? 1e100 : 1e10;
  const double length = norm(x);
  if (x.numel() == 0 || (length >= 1 / limit && length <= limit)) return 1;
  const double largest = x.abs().max().item<double>();
  return largest > 0 && std::isfinite(largest) ? std::exp2(std::ilogb(largest)) : 1;
}

double scaled_norm(const at::Tensor& x) {
  const double unit = unit_of(x);
  return unit == 1 ? norm(x) : unit * norm(x / unit);
}

Termination worse(Termination a, Termination b) {
  const auto rank = [](Termination termination) {
    switch (termination) {
      case Termination::kConverged:
        return 0;
      case Termination::kStagnated:
        return 1;
      case Termination::kMaxIterations:
        return 2;
      case Termination::kNegativeCurvature:
        return 3;
      case Termination::kNonFinite:
        return 4;
    }
    return 5;
  };
  return rank(a) >= rank(b) ? a : b;
}

}  // namespace curvature::detail
