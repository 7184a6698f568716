#include <ATen/TensorOperators.h>
#include <ATen/ops/linalg_eigh.h>

#include "core/check.hpp"
#include "core/finite.hpp"
#include "optim/symmetric_eigen.hpp"

namespace curvature::optim {
namespace {

constexpr int64_t kFailuresAllowed = 3;

SymmetricEigen by_lapack(const at::Tensor& matrix) {
  // The transpose of a symmetric matrix is it, in the layout that LAPACK wants.
  auto [values, vectors] = at::linalg_eigh(matrix.t());
  return {.values = values.flip(0), .vectors = vectors.flip(1)};
}

bool is_finite(const SymmetricEigen& eigen) {
  return curvature::detail::is_finite(eigen.values) && curvature::detail::is_finite(eigen.vectors);
}

/// The decomposition, or nothing if LAPACK fails.
std::optional<SymmetricEigen> attempt(const EigenSolver::Function& decompose,
                                      const at::Tensor& matrix) {
  try {
    SymmetricEigen eigen = decompose(matrix);
    if (is_finite(eigen)) return eigen;
  } catch (const c10::Error&) {  // not converged: the caller knows what to do without
  }
  return std::nullopt;
}

}  // namespace

EigenSolver::EigenSolver(const ParameterView& view, Function decompose)
    : name_(view.name),
      axes_(view.axes),
      warn_(view.warn),
      decompose_(decompose ? decompose : by_lapack) {}

std::optional<SymmetricEigen> EigenSolver::operator()(const at::Tensor& matrix, size_t mode) {
  const size_t axis = axes_.empty() ? mode : axes_[mode];
  CURVATURE_CHECK(curvature::detail::is_finite(matrix), NumericalError,
                  "'{}': the factor of axis {} is not finite", name_, axis);
  auto eigen = attempt(decompose_, matrix);
  if (!eigen) {
    eigen = attempt(decompose_, matrix.to(at::kDouble));
    if (eigen) {
      eigen = SymmetricEigen{eigen->values.to(matrix.scalar_type()),
                             eigen->vectors.to(matrix.scalar_type())};
    }
  }
  if (eigen) {
    failures_ = 0;
    return eigen;
  }
  failures_ += 1;
  CURVATURE_CHECK(failures_ <= kFailuresAllowed, NumericalError,
                  "'{}': the factor of axis {} could not be decomposed {} times in a row", name_,
                  axis, failures_);
  if (warn_) {
    warn_(fmt::format("'{}': the factor of axis {} could not be decomposed; its old basis is kept",
                      name_, axis));
  }
  return std::nullopt;
}

}  // namespace curvature::optim
