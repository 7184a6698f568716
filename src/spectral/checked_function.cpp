#include "spectral/checked_function.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include <ATen/ops/tensor.h>

#include "core/check.hpp"
#include "spectral/sampling.hpp"

namespace curvature::detail {
namespace {

Rounding rounding_of(at::ScalarType dtype) {
  return dtype == at::kDouble ? Rounding{1e-12, 1e-15} : Rounding{1e-5, 1e-6};
}

}  // namespace

CheckedFunction::CheckedFunction(std::string name, ScalarFunction f, FunctionDomain domain,
                                 std::string advice)
    : name_(std::move(name)), f_(std::move(f)), domain_(domain), advice_(std::move(advice)) {
  CURVATURE_CHECK(static_cast<bool>(f_), OptionError, "{}: the function is empty", name_);
}

std::vector<double> CheckedFunction::operator()(const std::vector<double>& values,
                                                const LinearOperator& a) const {
  return evaluate(values, a, rounding_of(a.spec().dtype));
}

std::vector<double> CheckedFunction::evaluate(const std::vector<double>& values,
                                              const LinearOperator& a,
                                              const Rounding& rounding) const {
  double scale = 0;
  for (const double value : values) scale = std::max(scale, std::abs(value));
  std::vector<double> results;
  for (const double value : values) {
    CURVATURE_CHECK(domain_ != FunctionDomain::kNonNegative || value >= -rounding.negative * scale,
                    NumericalError,
                    "{}: expected a positive semidefinite operator; {} has an eigenvalue of {} "
                    "or below; {}",
                    name_, a.describe(), value, advice_);
    CURVATURE_CHECK(
        domain_ != FunctionDomain::kPositive || value > rounding.singular * scale, NumericalError,
        "{}: expected a positive definite operator; {} has an eigenvalue of {} or below, "
        "the largest is about {}; {}",
        name_, a.describe(), value, scale, advice_);
    results.push_back(f_(domain_ == FunctionDomain::kNonNegative ? std::max(value, 0.0) : value));
    CURVATURE_CHECK(std::isfinite(results.back()), NumericalError,
                    "{}: the function is not finite at {}, an eigenvalue of {}", name_, value,
                    a.describe());
  }
  return results;
}

SpectralFunction CheckedFunction::on_tensors(const LinearOperator& a) const {
  Rounding rounding = rounding_of(a.spec().dtype);
  // Eigenvalues that an operator knows (a diagonal's, say) may span more than the precision.
  if (a.spec().symmetry == Symmetry::kPositiveDefinite) rounding.singular = 0;
  return [&a, this, rounding](const at::Tensor& eigenvalues) {
    const std::vector<double> results = evaluate(to_host_vector(eigenvalues), a, rounding);
    return at::tensor(results, at::kDouble).to(eigenvalues.options());
  };
}

CheckedFunction log_function() {
  return {"log", [](double x) { return std::log(x); }, FunctionDomain::kPositive};
}
CheckedFunction square_root_function() {
  return {"square_root", [](double x) { return std::sqrt(x); }, FunctionDomain::kNonNegative};
}
CheckedFunction inverse_square_root_function() {
  return {"inverse_square_root", [](double x) { return 1 / std::sqrt(x); },
          FunctionDomain::kPositive};
}
CheckedFunction exp_function() {
  return {"exponential", [](double x) { return std::exp(x); }};
}

std::vector<CheckedFunction> effective_dimensions(const std::vector<double>& dampings) {
  CURVATURE_CHECK(!dampings.empty(), OptionError, "effective dimension: there are no dampings");
  std::vector<CheckedFunction> functions;
  for (const double damping : dampings) {
    CURVATURE_CHECK(damping > 0 && std::isfinite(damping), OptionError,
                    "effective dimension: a damping must be positive and finite; got {}", damping);
    functions.emplace_back(
        "effective dimension", [damping](double x) { return x / (x + damping); },
        FunctionDomain::kNonNegative, "use a semidefinite relative, such as the GGN");
  }
  return functions;
}

}  // namespace curvature::detail
