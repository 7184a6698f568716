#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <curvature/core/space.hpp>
#include <curvature/core/structure.hpp>

namespace curvature {

/// What is known of an operator's symmetry; each value implies those before it.
enum class Symmetry { kGeneral, kSymmetric, kPositiveSemidefinite, kPositiveDefinite };

/// What an operator is, before it is applied.
struct OperatorSpec {
  Space domain;                            ///< of the operand
  Space range;                             ///< of the product
  at::ScalarType dtype = at::kDouble;      ///< of operand and product
  at::Device device = at::kCPU;            ///< of operand and product
  Symmetry symmetry = Symmetry::kGeneral;  ///< the strongest that is known
};

/// The determinant of an operator as sign * exp(log_abs); a zero determinant has sign 0.
struct LogDeterminant {
  double sign;     ///< -1, 0 or 1
  double log_abs;  ///< logarithm of the absolute value
};

/// f applied to eigenvalues one by one: a tensor `[n]` in, a tensor `[n]` out. Operators may call
/// it for groups of eigenvalues (block by block, say), so an entry of the result depends on its own
/// entry only.
using SpectralFunction = std::function<at::Tensor(const at::Tensor& eigenvalues)>;

/// A linear map known by its products. Immutable; const methods may be called concurrently.
///
/// Implementers override `apply_impl` (and `apply_adjoint_impl` unless the operator is symmetric)
/// in list form, or derive from `FlatOperator` and work on matrices `[n, K]`; the base class checks
/// operands and converts between the two forms.
class LinearOperator {
 public:
  /// @throws ShapeError if a symmetric operator has unequal domain and range
  explicit LinearOperator(OperatorSpec spec);
  virtual ~LinearOperator();
  LinearOperator(const LinearOperator&) = delete;
  LinearOperator& operator=(const LinearOperator&) = delete;

  /// What the operator is.
  const OperatorSpec& spec() const noexcept { return spec_; }
  /// Dimension of the range.
  int64_t rows() const noexcept { return spec_.range.size(); }
  /// Dimension of the domain.
  int64_t cols() const noexcept { return spec_.domain.size(); }
  /// Whether the operator is known to equal its adjoint.
  bool is_symmetric() const noexcept { return spec_.symmetry != Symmetry::kGeneral; }

  /// A x for a list of tensors, each `[shape...]` or each `[shape..., K]` (K columns at once).
  /// The result has the form of the operand and no autograd graph.
  /// @throws ShapeError, DtypeDeviceError if the operand does not fit `spec().domain`
  TensorList apply(const TensorList& x) const;
  /// A x for the flat view, `[n]` or `[n, K]`.
  at::Tensor apply(const at::Tensor& x) const;
  /// A^T y in list form. @throws NotSupportedError if the operator has no adjoint
  TensorList apply_adjoint(const TensorList& y) const;
  /// A^T y for the flat view, `[m]` or `[m, K]`.
  at::Tensor apply_adjoint(const at::Tensor& y) const;

  /// The operator as a formula, for messages: `(Hessian(n=1210) + 0.1 I)`.
  virtual std::string describe() const = 0;
  /// What the operator is made of, for closed algebra.
  virtual Structure structure() const { return NoStructure{}; }

  // Closed forms. "Not in closed form" (an empty answer) is the default; solvers and estimators
  // serve everybody else.

  /// Diagonal of a square operator in the flat view, `[n]`.
  virtual std::optional<at::Tensor> diagonal() const { return std::nullopt; }
  /// Sum of the diagonal of a square operator.
  virtual std::optional<double> trace() const { return std::nullopt; }
  /// Determinant of a square operator.
  virtual std::optional<LogDeterminant> log_determinant() const { return std::nullopt; }
  /// Square root of the sum of the squared entries.
  virtual std::optional<double> frobenius_norm() const { return std::nullopt; }
  /// All eigenvalues `[n]`, in no particular order. Symmetric operators only.
  virtual std::optional<at::Tensor> eigenvalues() const { return std::nullopt; }
  /// f(A) for a symmetric operator; null if there is no closed form.
  virtual OperatorPtr function(const SpectralFunction& f) const;
  /// A^-1; null if there is no closed form. The default goes through `function`.
  /// @throws NumericalError if the operator is singular
  virtual OperatorPtr inverse() const;
  /// Some R with R R^T = A, for sampling N(0, A); null if there is no closed form.
  /// @throws NumericalError if the operator is not positive semidefinite
  virtual OperatorPtr square_root_factor() const;

 protected:
  /// A x; every tensor of `x` has been checked and is `[shape..., K]`, K >= 0.
  virtual TensorList apply_impl(const TensorList& x) const = 0;
  /// A^T y; the default serves symmetric operators.
  virtual TensorList apply_adjoint_impl(const TensorList& y) const;
  /// A x for `[n, K]`; the default splits, calls `apply_impl` and joins.
  virtual at::Tensor apply_flat_impl(const at::Tensor& x) const;
  /// A^T y for `[m, K]`; the default splits, calls `apply_adjoint_impl` and joins.
  virtual at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const;

 private:
  OperatorSpec spec_;
};

/// Base of operators that work on the flat view.
class FlatOperator : public LinearOperator {
 public:
  using LinearOperator::LinearOperator;

 protected:
  at::Tensor apply_flat_impl(const at::Tensor& x) const override = 0;
  /// A^T y for `[m, K]`; the default serves symmetric operators.
  at::Tensor apply_adjoint_flat_impl(const at::Tensor& y) const override;
  TensorList apply_impl(const TensorList& x) const final;
  TensorList apply_adjoint_impl(const TensorList& y) const final;
};

/// The operator as a matrix `[rows, cols]`: the only function that builds one. Costs `cols`
/// products, `columns_at_once` at a time.
at::Tensor materialize(const LinearOperator& a, int64_t columns_at_once = 64);

}  // namespace curvature
