#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/solvers/solver.hpp>

namespace curvature::detail {

/// Where one right-hand side starts and what it has to reach.
struct Target {
  at::Tensor x;         ///< `[n]`, contiguous: updated in place
  at::Tensor residual;  ///< b - A x `[m]`, contiguous: the recurrence may overwrite it
  double tolerance;     ///< for |b - A x|
};

/// The iteration for one right-hand side. It begins with a product with a second operator (a
/// preconditioner, or A^T; a method without preconditioner gets its operand back); a step is then a
/// product with A and one with the second operator. The vectors live in buffers that are made once;
/// products are to be read only, since they may be the operand itself.
class Recurrence {
 public:
  virtual ~Recurrence() = default;

  /// What the second operator multiplies.
  virtual at::Tensor second_operand() const = 0;
  /// Takes the product with the second operator; the end of the iteration, if it is reached.
  virtual std::optional<Termination> take_second(const at::Tensor& product) = 0;
  /// What A multiplies.
  virtual at::Tensor first_operand() const = 0;
  /// Takes the product with A; the end of the iteration, if it is reached.
  virtual std::optional<Termination> take_first(const at::Tensor& product) = 0;
  /// |b - A x| as the recurrence has it.
  virtual double residual_norm() const = 0;
  /// A direction of negative curvature that ended the iteration, or an undefined tensor.
  virtual at::Tensor negative_direction() const { return {}; }
};

/// Everything the driver needs to know of a method.
struct Method {
  std::string_view task;                           ///< for people: "Conjugate gradients"
  const LinearOperator* preconditioner = nullptr;  ///< the second operator; null for none
  bool second_is_adjoint = false;                  ///< the second operator is A^T instead
  bool least_squares = false;  ///< a recurrence may converge with a large residual
  /// What residuals of each column are relative to; |b| if empty.
  std::vector<double> reference_norms = {};
  std::function<std::unique_ptr<Recurrence>(const Target&)> make;
};

/// Runs a recurrence for each column, together: one product serves all that are still at work. When
/// a recurrence ends the true residual is computed; if it is not as small as the recurrence
/// believed, the column starts again from there, as long as that gains a factor of two.
Solution solve_in_lockstep(const LinearOperator& a, const at::Tensor& b, const at::Tensor& start,
                           const IterationOptions& options, const Method& method);

/// @throws OptionError for negative values
void check_iteration_options(const IterationOptions& options, std::string_view who);
/// @throws NotSupportedError unless `a` is square and symmetric
void check_symmetric(const LinearOperator& a, std::string_view who);
/// @throws ShapeError, DtypeDeviceError unless the preconditioner maps the range of A to its domain
void check_preconditioner(const LinearOperator& a, const OperatorPtr& preconditioner,
                          std::string_view who);

/// The options with the adjoint preconditioner.
IterationOptions adjoint_options(IterationOptions options);

/// A power of two near the largest entry of a vector whose squares would overflow or vanish, else
/// 1: divided by it the vector is an ordinary one, without rounding.
double unit_of(const at::Tensor& x);
/// The norm of a vector, also where the squares of its entries overflow or vanish.
double scaled_norm(const at::Tensor& x);

/// Of two ways to end, the one that is worse for the user.
Termination worse(Termination a, Termination b);

}  // namespace curvature::detail
