#pragma once

#include <string>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

/// What the operators of this module share: checks of tensors, symmetry rules, dense mathematics.
namespace curvature::detail {

/// `tensor` cut from any graph. @throws ShapeError, DtypeDeviceError unless it has `dim` axes and
/// is float32 or float64
at::Tensor checked(const at::Tensor& tensor, int64_t dim, const char* who);
/// @throws DtypeDeviceError unless both have the same dtype and device
void check_like(const at::Tensor& tensor, const at::Tensor& reference, const char* who);
/// @throws OptionError if `a` is null
void check_not_null(const OperatorPtr& a, const char* who);
/// @throws ShapeError unless domain and range are equal
void check_one_space(const LinearOperator& a, const char* who);
/// @throws DtypeDeviceError unless both have the same dtype and device
void check_same_dtype_device(const LinearOperator& a, const LinearOperator& b, const char* who);

OperatorSpec spec_like(Space domain, Space range, const at::Tensor& tensor, Symmetry symmetry);
at::TensorOptions options_of(const LinearOperator& a);

/// What the smallest eigenvalue tells of a symmetric operator with these eigenvalues.
Symmetry definiteness(const at::Tensor& eigenvalues);
Symmetry scaled_symmetry(Symmetry a, double factor);
Symmetry sum_symmetry(Symmetry a, Symmetry b);
/// An inverse that exists is definite if the operator is semidefinite.
Symmetry inverse_symmetry(Symmetry a);

/// Eigenvalues below zero by less than this are rounding errors of zeros.
double rounding_tolerance(const at::Tensor& eigenvalues);
LogDeterminant log_determinant_of_spectrum(const at::Tensor& eigenvalues);
LogDeterminant log_determinant_of_matrix(const at::Tensor& matrix);

/// @throws NumericalError if an entry is not finite
void check_finite(const at::Tensor& matrix, const std::string& who);

struct SymmetricEigen {
  at::Tensor values;
  at::Tensor vectors;
};
/// Reads the upper triangle.
/// @throws NumericalError if the matrix is not finite
SymmetricEigen symmetric_eigen(const at::Tensor& matrix, const std::string& who);
at::Tensor symmetric_eigenvalues(const at::Tensor& matrix, const std::string& who);
/// @throws NumericalError if the matrix is singular
at::Tensor inverse_matrix(const at::Tensor& matrix, Symmetry symmetry, const std::string& who);
/// R with R R^T = matrix (Cholesky; through eigenvalues where that breaks down).
/// @throws NumericalError if the matrix is not positive semidefinite
at::Tensor square_root_matrix(const at::Tensor& matrix, const std::string& who);
/// l -> l^exponent. @throws NumericalError if an eigenvalue does not allow the exponent
SpectralFunction power_function(double exponent, std::string who);
bool is_integer(double exponent);

}  // namespace curvature::detail
