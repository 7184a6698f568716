#pragma once

#include <ATen/core/Tensor.h>

#include <curvature/core/space.hpp>

#include "io/byte_source.hpp"

namespace curvature::detail {

/// What the header of an npy file says.
struct NpyHeader {
  at::ScalarType dtype = at::kDouble;
  bool swap_bytes = false;
  bool fortran_order = false;
  Shape shape;
};

/// Reads the header; the source is then at the first byte of the data.
/// @throws FileError if it is not one, or its dtype is not supported
NpyHeader read_npy_header(ByteSource& source);

/// Reads a whole npy file, to its end.
at::Tensor read_npy(ByteSource& source);

}  // namespace curvature::detail
