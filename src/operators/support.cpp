#include "operators/support.hpp"

#include <algorithm>
#include <cmath>
#include <optional>

#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_cholesky_ex.h>
#include <ATen/ops/linalg_eigh.h>
#include <ATen/ops/linalg_eigvalsh.h>
#include <ATen/ops/linalg_inv_ex.h>
#include <ATen/ops/linalg_slogdet.h>

#include "core/check.hpp"
#include "core/epsilon.hpp"
#include "core/finite.hpp"
#include "operators/definite_inverse.hpp"

namespace curvature::detail {
namespace {

/// Nothing if the iteration does not converge.
std::optional<SymmetricEigen> try_eigen(const at::Tensor& matrix, at::ScalarType dtype) {
  try {
    // The transpose of a symmetric matrix is it, in the layout that LAPACK wants.
    const auto [values, vectors] = at::linalg_eigh(matrix.t().to(dtype));
    return SymmetricEigen{values.to(matrix.scalar_type()), vectors.to(matrix.scalar_type())};
  } catch (const c10::LinAlgError&) {
    return std::nullopt;
  }
}

/// Whether rounding left anything of an inverse. Only beyond the dtype's condition number it may
/// not have; bad scaling alone spoils nothing.
bool is_inverse(const at::Tensor& inverse, const at::Tensor& matrix) {
  const auto norm = [](const at::Tensor& x) { return x.abs().sum(0).max().item<double>(); };
  if (matrix.numel() == 0) return true;
  if (norm(matrix) * norm(inverse) * epsilon(matrix.scalar_type()) < 1) return true;
  constexpr double kLargestError = 0.1;
  at::Tensor residual = matrix.mm(inverse);
  residual.diagonal().sub_(1);
  return residual.abs().max().item<double>() < kLargestError;
}

}  // namespace

at::Tensor checked(const at::Tensor& tensor, int64_t dim, const char* who) {
  CURVATURE_CHECK(tensor.defined(), ShapeError, "{}: got an undefined tensor", who);
  CURVATURE_CHECK(dim < 0 || tensor.dim() == dim, ShapeError,
                  "{}: wrong number of axes; expected {}, got shape {}", who, dim,
                  to_string(tensor.sizes()));
  CURVATURE_CHECK(tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kDouble,
                  DtypeDeviceError, "{}: expected Float or Double, got {}; convert with .to()", who,
                  c10::toString(tensor.scalar_type()));
  return tensor.detach();
}

void check_like(const at::Tensor& tensor, const at::Tensor& reference, const char* who) {
  CURVATURE_CHECK(
      tensor.scalar_type() == reference.scalar_type() && tensor.device() == reference.device(),
      DtypeDeviceError, "{}: tensors differ; expected {} on {}, got {} on {}; convert with .to()",
      who, c10::toString(reference.scalar_type()), reference.device().str(),
      c10::toString(tensor.scalar_type()), tensor.device().str());
}

void check_not_null(const OperatorPtr& a, const char* who) {
  CURVATURE_CHECK(a != nullptr, OptionError, "{}: got a null operator", who);
}

void check_one_space(const LinearOperator& a, const char* who) {
  CURVATURE_CHECK(a.spec().domain == a.spec().range, ShapeError,
                  "{}: {} must map a space to itself; its domain is {}, its range {}", who,
                  a.describe(), a.spec().domain.describe(), a.spec().range.describe());
}

void check_same_dtype_device(const LinearOperator& a, const LinearOperator& b, const char* who) {
  CURVATURE_CHECK(a.spec().dtype == b.spec().dtype && a.spec().device == b.spec().device,
                  DtypeDeviceError, "{}: operators differ; {} has {} on {}, {} has {} on {}", who,
                  a.describe(), c10::toString(a.spec().dtype), a.spec().device.str(), b.describe(),
                  c10::toString(b.spec().dtype), b.spec().device.str());
}

OperatorSpec spec_like(Space domain, Space range, const at::Tensor& tensor, Symmetry symmetry) {
  return {std::move(domain), std::move(range), tensor.scalar_type(), tensor.device(), symmetry};
}

at::TensorOptions options_of(const LinearOperator& a) {
  return at::TensorOptions().dtype(a.spec().dtype).device(a.spec().device);
}

Symmetry definiteness(const at::Tensor& eigenvalues) {
  if (eigenvalues.numel() == 0) return Symmetry::kPositiveDefinite;
  const double smallest = eigenvalues.min().item<double>();
  if (smallest > 0) return Symmetry::kPositiveDefinite;
  return smallest == 0 ? Symmetry::kPositiveSemidefinite : Symmetry::kSymmetric;
}

Symmetry scaled_symmetry(Symmetry a, double factor) {
  return factor > 0 ? a : std::min(a, Symmetry::kSymmetric);
}

Symmetry sum_symmetry(Symmetry a, Symmetry b) {
  const bool semidefinite = std::min(a, b) >= Symmetry::kPositiveSemidefinite;
  return semidefinite ? std::max(a, b) : std::min(a, b);
}

Symmetry inverse_symmetry(Symmetry a) {
  return a == Symmetry::kPositiveSemidefinite ? Symmetry::kPositiveDefinite : a;
}

double rounding_tolerance(const at::Tensor& eigenvalues) {
  if (eigenvalues.numel() == 0) return 0;
  return 8 * epsilon(eigenvalues.scalar_type()) * static_cast<double>(eigenvalues.numel()) *
         eigenvalues.abs().max().item<double>();
}

LogDeterminant log_determinant_of_spectrum(const at::Tensor& eigenvalues) {
  const at::Tensor values = eigenvalues.to(at::kDouble);
  return {values.sign().prod().item<double>(), values.abs().log().sum().item<double>()};
}

LogDeterminant log_determinant_of_matrix(const at::Tensor& matrix) {
  const auto [sign, log_abs] = at::linalg_slogdet(matrix);
  return {sign.item<double>(), log_abs.item<double>()};
}

void check_finite(const at::Tensor& matrix, const std::string& who) {
  CURVATURE_CHECK(is_finite(matrix), NumericalError,
                  "{}: the matrix has entries that are not finite", who);
}

SymmetricEigen symmetric_eigen(const at::Tensor& matrix, const std::string& who) {
  check_finite(matrix, who);
  std::optional<SymmetricEigen> eigen = try_eigen(matrix, matrix.scalar_type());
  if (!eigen) eigen = try_eigen(matrix, at::kDouble);
  CURVATURE_CHECK(eigen.has_value(), NumericalError,
                  "{}: the eigendecomposition did not converge, in float64 neither", who);
  return *eigen;
}

at::Tensor symmetric_eigenvalues(const at::Tensor& matrix, const std::string& who) {
  check_finite(matrix, who);
  return at::linalg_eigvalsh(matrix);
}

at::Tensor inverse_matrix(const at::Tensor& matrix, Symmetry symmetry, const std::string& who) {
  check_finite(matrix, who);
  if (symmetry == Symmetry::kPositiveDefinite) {
    if (const std::optional<at::Tensor> inverse = definite_inverse(matrix)) return *inverse;
  }
  const auto [inverse, failure] = at::linalg_inv_ex(matrix);
  CURVATURE_CHECK(failure.item<int64_t>() == 0 && is_inverse(inverse, matrix), NumericalError,
                  "{}: inverse of a singular operator; add damping", who);
  return symmetry == Symmetry::kGeneral ? inverse : (inverse + inverse.t()).mul_(0.5);
}

at::Tensor square_root_matrix(const at::Tensor& matrix, const std::string& who) {
  check_finite(matrix, who);
  const auto [factor, failure] = at::linalg_cholesky_ex(matrix);
  if (failure.item<int64_t>() == 0) return factor;
  const SymmetricEigen eigen = symmetric_eigen(matrix, who);
  return eigen.vectors * power_function(0.5, who)(eigen.values);
}

SpectralFunction power_function(double exponent, std::string who) {
  return [exponent, who = std::move(who)](const at::Tensor& eigenvalues) {
    at::Tensor base = eigenvalues;
    if (!is_integer(exponent) && base.numel() > 0) {
      const double smallest = base.min().item<double>();
      CURVATURE_CHECK(smallest >= -rounding_tolerance(base), NumericalError,
                      "{}: power {} of an operator that is not positive semidefinite; its smallest "
                      "eigenvalue is {}; add damping",
                      who, exponent, smallest);
      base = base.clamp_min(0);
    }
    CURVATURE_CHECK(exponent >= 0 || !base.eq(0).any().item<bool>(), NumericalError,
                    "{}: power {} of a singular operator; add damping", who, exponent);
    return base.pow(exponent);
  };
}

bool is_integer(double exponent) { return std::nearbyint(exponent) == exponent; }

}  // namespace curvature::detail
