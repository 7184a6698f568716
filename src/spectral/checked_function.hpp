#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/spectral/scalar_function.hpp>

namespace curvature::detail {

/// Eigenvalues for which a function makes sense.
enum class FunctionDomain {
  kReal,
  kNonNegative,  ///< negative by rounding counts as zero
  kPositive,     ///< zero up to rounding is refused
};

/// A function of a symmetric operator with its domain.
class CheckedFunction {
 public:
  /// @throws OptionError if `f` is empty
  CheckedFunction(std::string name, ScalarFunction f,
                  FunctionDomain domain = FunctionDomain::kReal);

  const std::string& name() const { return name_; }
  /// f at eigenvalues or Ritz values of `a`; rounding is measured against the largest of them.
  /// @throws NumericalError if a value is not in the domain or f is not finite there
  std::vector<double> operator()(const std::vector<double>& values, const LinearOperator& a) const;
  /// The same as a function of tensors that remembers what `a` is called.
  SpectralFunction on_tensors(const LinearOperator& a) const;

 private:
  std::string name_;
  ScalarFunction f_;
  FunctionDomain domain_;
};

CheckedFunction log_function();
CheckedFunction square_root_function();
CheckedFunction inverse_square_root_function();
CheckedFunction exp_function();
/// x / (x + d) for each d of `dampings`. @throws OptionError unless they are positive and finite
std::vector<CheckedFunction> effective_dimensions(const std::vector<double>& dampings);

}  // namespace curvature::detail
