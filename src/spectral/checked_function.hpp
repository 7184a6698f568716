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

/// What rounding does to eigenvalues, relative to the largest.
struct Rounding {
  double negative;  ///< how far below zero it carries an eigenvalue of zero
  double singular;  ///< up to here, nothing is known of an eigenvalue
};

/// A function of a symmetric operator with its domain.
class CheckedFunction {
 public:
  /// @throws OptionError if `f` is empty
  CheckedFunction(std::string name, ScalarFunction f, FunctionDomain domain = FunctionDomain::kReal,
                  std::string advice = "add damping");

  const std::string& name() const { return name_; }
  /// f at eigenvalues or Ritz values of `a`; rounding is measured against the largest of them.
  /// @throws NumericalError if a value is not in the domain or f is not finite there
  std::vector<double> operator()(const std::vector<double>& values, const LinearOperator& a) const;
  /// The same for a closed form of `a`; refers to both, so for immediate use.
  SpectralFunction on_tensors(const LinearOperator& a) const;

 private:
  std::vector<double> evaluate(const std::vector<double>& values, const LinearOperator& a,
                               const Rounding& rounding) const;

  std::string name_;
  ScalarFunction f_;
  FunctionDomain domain_;
  std::string advice_;  // for operators outside the domain
};

CheckedFunction log_function();
CheckedFunction square_root_function();
CheckedFunction inverse_square_root_function();
CheckedFunction exp_function();
/// x / (x + d) for each d of `dampings`. @throws OptionError unless they are positive and finite
std::vector<CheckedFunction> effective_dimensions(const std::vector<double>& dampings);

}  // namespace curvature::detail
