#pragma once

#include <vector>

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// S_1 (x) ... (x) S_k (Kronecker) for factors `[m_i, n_i]`, on plain vectors of length
/// n_1 ... n_k, the index of the last factor varying fastest (row-major).
///
/// A product is k mode products; the matrix is never formed. Closed forms: diagonal, trace,
/// Frobenius norm, determinant, inverse (factor by factor); for symmetric factors eigenvalues,
/// functions, real powers, square-root factor. `symmetry` is what the caller knows of *every*
/// factor; it is trusted. Factors are shared, not copied.
/// @throws ShapeError, DtypeDeviceError, OptionError if there is no factor
OperatorPtr kronecker(const std::vector<at::Tensor>& factors,
                      Symmetry symmetry = Symmetry::kGeneral);
/// The same between given spaces of sizes n_1 ... n_k and m_1 ... m_k.
OperatorPtr kronecker(const std::vector<at::Tensor>& factors, Space domain, Space range,
                      Symmetry symmetry = Symmetry::kGeneral);

}  // namespace curvature
