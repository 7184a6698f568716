#pragma once

#include <ATen/core/Tensor.h>

#include <curvature/core/linear_operator.hpp>

namespace curvature {

/// diag(d) for d `[n]` on plain vectors. Closed forms: all. Definiteness is read off d.
///
/// The tensor is shared, not copied: do not write to it while the operator lives.
/// @throws ShapeError, DtypeDeviceError unless d is a float32 or float64 vector
OperatorPtr diagonal(const at::Tensor& d);
/// diag(d) on `space`, d in the flat view `[space.size()]`.
OperatorPtr diagonal(const at::Tensor& d, Space space);
/// x -> d * x entry by entry, on the space of the shapes of `d`. Joins copies of the tensors.
OperatorPtr diagonal(const TensorList& d);

/// The identity on `space`; needs no memory.
OperatorPtr identity(Space space, const at::TensorOptions& options = at::kDouble);
/// scale * I on `space`. @throws OptionError if `scale` is not finite
OperatorPtr scaled_identity(double scale, Space space,
                            const at::TensorOptions& options = at::kDouble);
/// The zero map between two spaces.
OperatorPtr zero(Space domain, Space range, const at::TensorOptions& options = at::kDouble);

}  // namespace curvature
