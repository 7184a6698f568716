#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>
#include <curvature/spectral/exact.hpp>

namespace curvature::detail {

/// The symmetric part of the matrix of `a`, float64. @throws NotSupportedError if it does not fit
/// into memory, NumericalError if it is not finite
at::Tensor symmetric_matrix(const LinearOperator& a, const ExactOptions& options,
                            std::string_view who);

/// All eigenvalues, and the products they cost.
struct Spectrum {
  std::vector<double> values;
  int64_t products = 0;
};

/// In closed form, or of the dense matrix. @throws NotSupportedError if `a` is not symmetric; as
/// `symmetric_matrix`
Spectrum spectrum_of(const LinearOperator& a, const ExactOptions& options, std::string_view who);

/// @throws OptionError
void check_options(const ExactOptions& options, std::string_view who);

}  // namespace curvature::detail
